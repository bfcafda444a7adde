"""A worker process of `preparation`: reads one shard of the source, writes one shard of records.

Must not import TensorFlow or JAX at its head: every worker would wait for them.
"""

import collections
import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from input_pipeline import records
from input_pipeline.held_out_split import is_held_out
from input_pipeline.raw import tar_samples
from input_pipeline.raw.reader import Reader
from input_pipeline.raw.samples import RawSample, Seen, Shard
from input_pipeline.validate import DropError
from input_pipeline.word_counts import words_of
from pgs.errors import UserError
from pgs.utils.files import write_json

STATE = 'shards'  # folder with a report and the words of each finished shard
# Of a worker process: streams the samples of a shard, and counts what is read.
_read: Callable[[Shard, Seen], Iterator[RawSample]] = tar_samples.tar_samples


def start_worker(reader: Reader) -> None:
    """Runs once in each worker process."""
    global _read
    warnings.filterwarnings('ignore', module='PIL')  # about damaged EXIF; the pixels decide
    _read = reader.open()


def words_path(folder: Path, index: int) -> Path:
    """The file with the count of every word of a shard's captions."""
    return folder / STATE / f'{index:05}.words.json'


def prepare_shard(
    shard: Shard,
    index: int,
    count: int,
    out: str,
    max_side: int | None,
    share: float | None = None,
) -> dict[str, Any]:
    """Writes one shard of each split, the words of its captions, and then its report.

    Runs in a worker process. An interruption leaves no incomplete file under its name.

    Args:
      shard: what to read.
      index, count: number of this shard, of how many.
      out: the prepared folder.
      max_side: pixels; larger images are scaled down. None: no limit.
      share: of the samples that is held out; None: there is no such split.

    Returns:
      The content of the report: numbers of samples that were read, kept and dropped, bytes, dropped
      samples, and where a damaged shard ends.

    Raises:
      UserError: what was read is not what was kept and dropped.
    """
    folder = Path(out)
    reasons: collections.Counter[str] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    dropped, members, captions_dropped = [], 0, 0
    seen = Seen()
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                records.ShardWriter(folder / records.shard_name(index, count, split))
            )
            for split in (records.SPLIT, records.HELD_OUT_SPLIT)[: 1 if share is None else 2]
        ]
        for sample in _read(shard, seen):
            members += sample.members
            try:
                example = records.example_of(sample, max_side)
            except DropError as drop:
                reason = drop.args[0]
                reasons[reason] += 1
                dropped.append({'key': sample.key, 'shard': shard.path, 'reason': reason})
                continue
            captions_dropped += len(sample.captions) - len(example['captions'])
            held_out = share is not None and is_held_out(sample.group or sample.key, share)
            writers[held_out].write(example)
            if not held_out:
                words.update(word for caption in example['captions'] for word in words_of(caption))
        kept = sum(writer.records for writer in writers)
        check_counts(shard, seen, decided=kept + sum(reasons.values()), members=members)
    report = {
        'present': seen.samples,
        'members': seen.members,
        'ignored': seen.ignored,
        'kept': kept,
        'dropped': dict(reasons),
        'bytes': sum(writer.bytes for writer in writers),
        'samples': dropped,
        'cut': cut_of(shard, seen) if seen.cut else None,
    }
    if captions_dropped:
        report['captions_dropped'] = captions_dropped
    if share is not None:
        report['held_out'] = {'kept': writers[1].records, 'bytes': writers[1].bytes}
    write_json(words_path(folder, index), words)
    write_json(folder / STATE / f'{index:05}.json', report)
    return report


def check_counts(shard: Shard, seen: Seen, *, decided: int, members: int) -> None:
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
    if shard.rows and not seen.cut:
        lost['rows'] = (shard.rows, seen.rows)
    for what, (present, counted) in lost.items():
        if present != counted:
            raise UserError(
                f'{shard.path}: {present} {what} were read, but {counted} are accounted for; nothing '
                'of this shard was written. If the file did not change meanwhile, report it as a bug'
            )


def cut_of(shard: Shard, seen: Seen) -> dict[str, Any]:
    """Where a damaged shard ends, for the report: what is behind that place is unknown."""
    if shard.rows:
        place = {'intact_rows': seen.end, 'rows': shard.first_row + shard.rows}
    else:
        place = {'intact_bytes': seen.end, 'bytes': os.path.getsize(shard.path)}
    return {'shard': shard.path, 'samples': seen.samples, **place, 'why': seen.cut}
