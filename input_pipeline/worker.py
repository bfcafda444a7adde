"""A worker process of `preparation`: reads one shard of the source, writes one shard of records.

Must not import TensorFlow or JAX at its head: every worker would wait for them.
"""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline import raw_samples, records
from input_pipeline.validate import DropError
from input_pipeline.word_counts import words_of
from pgs.utils.files import write_json

STATE = 'shards'  # folder with a report and the words of each finished shard
_images: raw_samples.ImageFolder | None = None  # of a worker process, listed once


def start_worker(images: str | None) -> None:
    """Runs once in each worker process."""
    global _images
    _images = raw_samples.ImageFolder(images) if images else None


def words_path(folder: Path, index: int) -> Path:
    """The file with the count of every word of a shard's captions."""
    return folder / STATE / f'{index:05}.words.json'


def samples_of(shard: raw_samples.Shard) -> Iterator[raw_samples.RawSample]:
    """Streams the samples of a tar, or of rows of a TSV."""
    if _images is not None:
        return raw_samples.tsv_samples(shard, _images)
    return raw_samples.tar_samples(shard)


def prepare_shard(
    shard: raw_samples.Shard, index: int, count: int, out: str, max_side: int | None
) -> dict[str, Any]:
    """Writes one shard, the words of its captions, and then its report; runs in a worker process.

    An interruption leaves no incomplete file under either name.

    Args:
      shard: what to read.
      index, count: number of this shard, of how many.
      out: the prepared folder.
      max_side: pixels; larger images are scaled down. None: no limit.

    Returns:
      The content of the report: numbers of kept and dropped samples, bytes, dropped samples.
    """
    folder = Path(out)
    reasons: collections.Counter[str] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    dropped, kept = [], 0
    with records.ShardWriter(folder / records.shard_name(index, count)) as writer:
        for sample in samples_of(shard):
            try:
                example = records.example_of(sample, max_side)
                writer.write(example)
                kept += 1
                words.update(word for caption in example['captions'] for word in words_of(caption))
            except DropError as drop:
                reason = drop.args[0]
                reasons[reason] += 1
                dropped.append({'key': sample.key, 'shard': shard.path, 'reason': reason})
    report = {'kept': kept, 'dropped': dict(reasons), 'bytes': writer.bytes, 'samples': dropped}
    write_json(words_path(folder, index), words)
    write_json(folder / STATE / f'{index:05}.json', report)
    return report
