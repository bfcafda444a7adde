"""CLIP's byte-pair tokenizer, preceded by OpenCLIP's text cleaning.

The library `tokenizers` applies the merges of clip_bpe/merges.txt.gz, which are CLIP's own. It
releases Python's lock while it works.

Shape letters: N texts, T tokens.
"""

import functools
import gzip
import html
import importlib.resources
import re

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

VOCAB_SIZE = 49408  # of CLIP's byte-pair vocabulary, special tokens included
START_OF_TEXT, END_OF_TEXT, PADDING = 49406, 49407, 0
CONTEXT_LENGTH = 77
SPECIAL = {'<start_of_text>': START_OF_TEXT, '<end_of_text>': END_OF_TEXT}  # OpenCLIP's spelling
# OpenCLIP's units before the byte pairs. Its pattern ignores case: so the long s counts as s, and the
# mark U+0345, whose capital is a letter, belongs to no unit.
UNITS = '|'.join(
    (*SPECIAL, "'[sſ]|'t|'re|'ve|'m|'ll|'d", r'\p{L}+|\p{N}', '[^\\s\\p{L}\\p{N}\u0345]+')
)
WORD_END = '</w>'


def _merges() -> list[tuple[str, str]]:
    file = importlib.resources.files('input_pipeline') / 'clip_bpe' / 'merges.txt.gz'
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return [(left, right) for left, right in map(str.split, lines)]


def _byte_letters() -> list[str]:
    """A printable character for each byte, in the order of CLIP's first 256 ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = range(0x100, 0x200 - len(printable))  # stand for the other bytes, ascending
    return [chr(c) for c in (*printable, *others)]


@functools.cache
def _tokenizer() -> Tokenizer:
    letters, merges = _byte_letters(), _merges()
    pieces = [*letters, *(x + WORD_END for x in letters), *(a + b for a, b in merges)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(vocab=ids, merges=merges, end_of_word_suffix=WORD_END)
    tokenizer = Tokenizer(model)
    units = pre_tokenizers.Split(Regex(UNITS), 'removed', invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([units, to_bytes])
    return tokenizer


def clean(text: str) -> str:
    """Repairs wrongly decoded characters, unescapes HTML twice, joins white space, lowers case."""
    # ftfy changes nothing in plain ASCII, and would take half of the tokenizer's time there.
    if not (text.isascii() and text.isprintable() and '&' not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r'\s+', ' ', text).strip().lower()


def encode(text: str) -> list[int]:
    """Token ids of a caption, without start and end token.

    A special token that is spelled out in the caption gets its own id, as in OpenCLIP.
    """
    text = clean(text)
    if any(token in text for token in SPECIAL):
        return _encode_units(text)
    return _tokenizer().encode(text).ids


def encode_batch(texts: list[str]) -> list[list[int]]:
    """`encode` of each text, on all cores."""
    cleaned = [clean(text) for text in texts]
    ids = [encoding.ids for encoding in _tokenizer().encode_batch_fast(cleaned)]
    for row, text in enumerate(cleaned):
        if any(token in text for token in SPECIAL):
            ids[row] = _encode_units(text)
    return ids


def _encode_units(text: str) -> list[int]:
    """Ids of a cleaned text, unit by unit: the model itself does not know the special tokens."""
    tokenizer = _tokenizer()
    ids: list[int] = []
    for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        unit = text[start:end]
        ids += [SPECIAL[unit]] if unit in SPECIAL else tokenizer.encode(unit).ids
    return ids


def tokenize(texts: list[str], context_length: int = CONTEXT_LENGTH) -> np.ndarray:
    """Token ids of captions.

    Args:
      texts: captions of any length; may be empty.
      context_length: columns; at least 2, for the start and the end token.

    Returns:
      int32 (N, context_length): start token, caption, end token, zeros. A caption that is too
      long is cut before the end token, at which the text tower pools.

    Raises:
      ValueError: context_length below 2.
    """
    if context_length < 2:
        raise ValueError(
            f'context_length={context_length} has no room for the start and end token: give >= 2'
        )
    return padded([ids[: context_length - 2] for ids in encode_batch(texts)], context_length)


def padded(captions: list[list[int]], context_length: int) -> np.ndarray:
    """Rows of start token, caption, end token and zeros: int32 (N, context_length).

    Args:
      captions: ids of each, at most context_length - 2.
      context_length: columns.
    """
    ids_NxT = np.full((len(captions), context_length), PADDING, np.int32)
    for row, ids in zip(ids_NxT, captions, strict=True):
        row[0] = START_OF_TEXT
        row[1 : 1 + len(ids)] = ids
        row[1 + len(ids)] = END_OF_TEXT
    return ids_NxT


def count_cut(texts: list[str], context_length: int = CONTEXT_LENGTH) -> int:
    """Number of texts that are cut at this context length."""
    return sum(len(ids) > context_length - 2 for ids in encode_batch(texts))
