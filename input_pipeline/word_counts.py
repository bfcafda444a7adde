"""Word counts of a data set's captions, made once and kept beside its records (CLIPF).

`prepare` counts while it writes a data set; other data sets are counted when a run first needs it.
Imports TensorFlow only where it is needed, so that worker processes start quickly.

Words are the units that CLIP's tokenizer splits a caption into before its byte pairs: runs of
letters, single digits, runs of punctuation, endings such as 's.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tqdm

from input_pipeline.tokenizer import clean
from pgs.errors import UserError
from pgs.utils.files import read_json, write_json, writing

if TYPE_CHECKING:
    from input_pipeline.sources import Records

MIN_COUNT = 5  # rarer words are not counted
CHUNK = 256  # records that are read at once
WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+")


def words_of(caption: str) -> list[str]:
    """The words of a caption, as the tokenizer cleans it."""
    return WORD.findall(clean(caption))


def drop_probabilities(counts: Mapping[str, int], total: int, threshold: float) -> dict[str, float]:
    """p_drop(word) = max(0, 1 - sqrt(threshold / f(word))), f(word) = its count / total.

    Args:
      counts: of each counted word.
      total: number of all words, counted or not.
      threshold: t, share of all words; rarer words are never dropped.
    """
    return {w: max(0.0, 1.0 - (threshold * total / n) ** 0.5) for w, n in counts.items()}


def counts_of(sources: Sequence['Records']) -> tuple[dict[str, int], int]:
    """The word counts of data sets together, counted for those that have none yet.

    Returns:
      (count of each word, number of all words).

    Raises:
      UserError: a file of counts that belongs to another data set or cannot be read or written, or
        a record that cannot be read.
    """
    counts: collections.Counter[str] = collections.Counter()
    total = 0
    for source in sources:
        kept = read(source) or count(source)
        counts.update(kept['counts'])
        total += kept['words']
    return dict(counts), total


def path_of(folder: Path, split: str) -> Path:
    """The file of the word counts, in the folder of the records."""
    return folder / f'word_counts_{split}.json'


def read(source: 'Records') -> dict[str, Any] | None:
    """The kept word counts of a data set; None if it has none yet.

    Raises:
      UserError: a file that cannot be read, or that belongs to other records.
    """
    path = path_of(source.folder, source.split)
    if not path.is_file():
        return None
    try:
        kept = read_json(path)
        shards, words, counts = kept['shards'], kept['words'], kept['counts']
        if not all(isinstance(n, int) and n > 0 for n in (words, *counts.values())):
            raise ValueError('a count is not a positive whole number')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'cannot read {path}: {error!r}; delete it to count again') from error
    if shards != source.shards:
        raise UserError(
            f'{path} holds the word counts of another data set: delete it to count again'
        )
    return kept


def count(source: 'Records') -> dict[str, Any]:
    """Counts the words of all captions of a data set, and keeps the counts beside it."""
    from input_pipeline.sources import captions_of

    counts: collections.Counter[str] = collections.Counter()
    with tqdm.tqdm(total=len(source), desc='Counting words (once)', unit=' records') as bar:
        for start in range(0, len(source), CHUNK):
            indices = list(range(start, min(start + CHUNK, len(source))))
            for record in source.__getitems__(indices):
                for caption in captions_of(record):
                    counts.update(words_of(caption))
            bar.update(len(indices))
    return write(source.folder, source.split, source.shards, counts)


def write(
    folder: Path, split: str, shards: Mapping[str, int], counts: collections.Counter[str]
) -> dict[str, Any]:
    """Keeps the word counts of a data set beside its records.

    Args:
      folder: of the records.
      split: its name.
      shards: file name -> number of records, by which `read` recognises the data set.
      counts: of every word, in the order of the records.

    Returns:
      The content of the file.
    """
    kept = {
        'shards': dict(shards),
        'words': counts.total(),
        'counts': {word: n for word, n in counts.most_common() if n >= MIN_COUNT},
    }
    path = path_of(folder, split)
    with writing(str(path), 'make the folder writable, or use another config.text_masking'):
        write_json(path, kept)
    return kept
