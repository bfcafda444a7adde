"""CLIP's byte-pair tokenizer, preceded by OpenCLIP's text cleaning.

Shape letters: N texts, T tokens.
"""

import functools
import html
import re

import ftfy
import instant_clip_tokenizer
import numpy as np

VOCAB_SIZE = 49408  # of CLIP's byte-pair vocabulary, special tokens included
START_OF_TEXT, END_OF_TEXT, PADDING = 49406, 49407, 0
CONTEXT_LENGTH = 77


@functools.cache
def _tokenizer() -> instant_clip_tokenizer.Tokenizer:
    return instant_clip_tokenizer.Tokenizer()


def clean(text: str) -> str:
    """Repairs wrongly decoded characters, unescapes HTML twice, joins white space, lowers case."""
    # ftfy changes nothing in plain ASCII, and would take half of the tokenizer's time there.
    if not (text.isascii() and text.isprintable() and '&' not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r'\s+', ' ', text).strip().lower()


def encode(text: str) -> list[int]:
    """Token ids of a caption, without start and end token."""
    return _tokenizer().encode(clean(text))


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
    return padded([encode(text)[: context_length - 2] for text in texts], context_length)


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
    return sum(len(encode(text)) > context_length - 2 for text in texts)
