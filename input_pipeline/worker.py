"""A worker process of `preparation`: reads one shard of the source, writes one shard of records.

Must not import TensorFlow or JAX at its head: every worker would wait for them.
"""

import collections
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipeline import raw_samples, records
from input_pipeline.validate import DropError
from input_pipeline.word_counts import words_of
from pgs.errors import UserError
from pgs.utils.files import write_json

STATE = 'shards'  # folder with a report and the words of each finished shard
_images: raw_samples.ImageFolder | None = None  # of a worker process, listed once


def start_worker(images: str | None) -> None:
    """Runs once in each worker process."""
    global _images
    warnings.filterwarnings('ignore', module='PIL')  # about damaged EXIF; the pixels decide
    _images = raw_samples.ImageFolder(images) if images else None


def words_path(folder: Path, index: int) -> Path:
    """The file with the count of every word of a shard's captions."""
    return folder / STATE / f'{index:05}.words.json'


def samples_of(shard: raw_samples.Shard, seen: raw_samples.Seen) -> Iterator[raw_samples.RawSample]:
    """Streams the samples of a tar, or of rows of a TSV, and counts what is read."""
    if _images is not None:
        return raw_samples.tsv_samples(shard, _images, seen)
    return raw_samples.tar_samples(shard, seen)


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
      The content of the report: numbers of samples that were read, kept and dropped, bytes, dropped
      samples, and where a damaged shard ends.

    Raises:
      UserError: what was read is not what was kept and dropped.
    """
    folder = Path(out)
    reasons: collections.Counter[str] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    dropped, kept, members = [], 0, 0
    seen = raw_samples.Seen()
    with records.ShardWriter(folder / records.shard_name(index, count)) as writer:
        for sample in samples_of(shard, seen):
            members += sample.members
            try:
                example = records.example_of(sample, max_side)
                writer.write(example)
                kept += 1
                words.update(word for caption in example['captions'] for word in words_of(caption))
            except DropError as drop:
                reason = drop.args[0]
                reasons[reason] += 1
                dropped.append({'key': sample.key, 'shard': shard.path, 'reason': reason})
        check_counts(shard, seen, decided=kept + sum(reasons.values()), members=members)
    report = {
        'present': seen.samples,
        'members': seen.members,
        'ignored': seen.ignored,
        'kept': kept,
        'dropped': dict(reasons),
        'bytes': writer.bytes,
        'samples': dropped,
        'cut': cut_of(shard, seen) if seen.cut else None,
    }
    write_json(words_path(folder, index), words)
    write_json(folder / STATE / f'{index:05}.json', report)
    return report


def check_counts(
    shard: raw_samples.Shard, seen: raw_samples.Seen, *, decided: int, members: int
) -> None:
    """Compares what was read of a shard with what was decided about it.

    Args:
      shard: what was read.
      seen: what the reader counted.
      decided: number of samples that were kept or dropped.
      members: number of files, or rows, in these samples.

    Raises:
      UserError: a sample, a member or a row is in neither count, or in two; nothing of the shard
        is written.
    """
    lost = {
        'samples': (seen.samples, decided),
        'members': (seen.members, members + seen.ignored),
    }
    if shard.rows:
        lost['rows'] = (shard.rows, seen.members)
    for what, (present, counted) in lost.items():
        if present != counted:
            raise UserError(
                f'{shard.path}: {present} {what} were read, but {counted} are accounted for; nothing '
                'of this shard was written. If the file did not change meanwhile, report it as a bug'
            )


def cut_of(shard: raw_samples.Shard, seen: raw_samples.Seen) -> dict[str, Any]:
    """Where a damaged shard ends, for the report: what is behind that byte is unknown."""
    return {
        'shard': shard.path,
        'samples': seen.samples,
        'intact_bytes': seen.end,
        'bytes': os.path.getsize(shard.path),
        'why': seen.cut,
    }
