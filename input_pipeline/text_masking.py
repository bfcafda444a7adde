"""Text masks: which tokens of a caption that is too long are kept in training.

Each mask is a pure function (caption, length, seed) -> at most `length` token ids, without start
and end token. A caption that fits is never changed. Evaluation uses no mask: `tokenizer.tokenize`.

Sources: CLIPA (arXiv 2305.07017) for truncate, random and block; CLIPF (word frequency, WACV 2026)
for frequency.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import word_counts
from input_pipeline.sources import Records
from input_pipeline.tokenizer import encode
from pgs.errors import UserError

TextMask = Callable[[str, int, int], list[int]]


def truncate(caption: str, length: int, seed: int) -> list[int]:
    """The first tokens."""
    del seed
    return encode(caption)[:length]


def random(caption: str, length: int, seed: int) -> list[int]:
    """A random choice of the tokens, in their order."""
    ids = encode(caption)
    if len(ids) <= length:
        return ids
    places = highest(np.random.default_rng(seed).random(len(ids)), length)
    return [ids[place] for place in places]


def block(caption: str, length: int, seed: int) -> list[int]:
    """Consecutive tokens from a random start."""
    ids = encode(caption)
    if len(ids) <= length:
        return ids
    start = int(np.random.default_rng(seed).random() * (len(ids) - length + 1))
    return ids[start : start + length]


def frequency(caption: str, length: int, seed: int, *, drop: Mapping[str, float]) -> list[int]:
    """The `length` words with the highest U - p_drop, in their order, then the first tokens of these.

    Args:
      caption, length, seed: as for every mask; the uniform numbers U come from the seed.
      drop: p_drop of each counted word. A word that was not counted has 1, as in CLIPF's code.
    """
    ids = encode(caption)
    if len(ids) <= length:
        return ids
    words = word_counts.words_of(caption)
    scores = np.random.default_rng(seed).random(len(words)) - [drop.get(w, 1.0) for w in words]
    return encode(' '.join(words[place] for place in highest(scores, length)))[:length]


def highest(scores: np.ndarray, count: int) -> list[int]:
    """The places of the `count` highest scores, ascending; all places if there are fewer."""
    return sorted(np.argsort(-scores, kind='stable')[:count].tolist())


WITHOUT_COUNTS: dict[str, TextMask] = {'truncate': truncate, 'random': random, 'block': block}
NAMES = (*WITHOUT_COUNTS, 'frequency')


def train_length(config: ConfigDict) -> int:
    """Tokens of a caption while images are masked, with start and end token.

    Args:
      config: as configs/base.py.
    """
    return config.text_masking.context_length or config.model.text.context_length


def check_length(options: ConfigDict, context_length: int) -> None:
    """Checks the length of training captions against the text tower's.

    Raises:
      UserError: a length that is too short for a token, or too long for the text tower.
    """
    short = options.context_length
    if short and short < 3:
        raise UserError(
            f'config.text_masking.context_length={short} has no room for a token between the '
            'start and the end token: give at least 3'
        )
    if short > context_length:
        raise UserError(
            f'config.text_masking.context_length={short} is above '
            f'config.model.text.context_length={context_length}: lower it; 0 takes the latter'
        )


def configured(options: ConfigDict, sources: Sequence[Records]) -> TextMask:
    """The text mask that config.text_masking names.

    Args:
      options: config.text_masking, as pgs/config_table.py checks it.
      sources: the training data; `frequency` counts the words of their captions on first use.

    Raises:
      UserError: see `word_counts.counts_of`.
    """
    if options.strategy == 'frequency':
        counts, total = word_counts.counts_of(sources)
        drop = word_counts.drop_probabilities(counts, total, options.threshold)
        return functools.partial(frequency, drop=drop)
    return WITHOUT_COUNTS[options.strategy]
