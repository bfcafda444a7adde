"""config.data.shuffle='window' for a run: the order of its samples, and copies of its shards.

Shards of gs:// are copied to the local disk; those of local folders are read where they are, unless
config.data.window_cache names a folder for copies.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import buckets, window
from input_pipeline.shard_cache import ShardCache
from input_pipeline.sources import Records
from pgs.errors import UserError
from pgs.utils import own_folder

GIGABYTE = 10**9
CHECKED_EPOCHS = 20  # of each source, whose windows are looked at for the largest one


def is_copied(data: ConfigDict, records: Records) -> bool:
    """Whether the shards of a data set are copied before they are read."""
    copies = bool(data.window_cache) or buckets.is_bucket(records.folder)
    return data.shuffle == 'window' and copies


def cache_folder(data: ConfigDict) -> Path:
    """The folder of the copies of all processes on this machine."""
    folder = data.window_cache or os.path.join(data.cache_dir, 'shards')
    return Path(folder).expanduser().absolute()


def open_cache(
    data: ConfigDict, train: Sequence[Records], held_out: Records | None
) -> ShardCache | None:
    """The copies of the shards of a run; None if nothing is to be copied.

    Args:
      data: config.data.
      train: the training data.
      held_out: held-out pairs, whose copies stay to the end.
    """
    copied = [r for r in train if is_copied(data, r)]
    kept = [held_out] if held_out is not None and is_copied(data, held_out) else []
    if not copied + kept:
        return None
    lengths = {
        file: length
        for records in copied + kept
        for file, length in zip(records.files, records.shards.values(), strict=True)
    }
    return ShardCache(cache_folder(data), lengths, [f for r in kept for f in r.files])


def order_of(config: ConfigDict, train: Sequence[tuple[Records, float]]) -> window.Order:
    """The order of all samples of a run.

    Args:
      config: as configs/base.py.
      train: (records, weight) of the training data.
    """
    return window.Order(
        seed=config.seed,
        batch_size=config.batch_size,
        streams=config.data.window_streams,
        window_shards=config.data.window_shards,
        shards=tuple(tuple(records.shards.values()) for records, _ in train),
        weights=tuple(weight for _, weight in train),
    )


def sampler_of(
    config: ConfigDict,
    train: Sequence[tuple[Records, float]],
    cache: ShardCache | None,
    rows: np.ndarray,
    start_step: int,
) -> Callable[[int], np.ndarray]:
    """The samples of this process by step, for `pipeline.train_batches`.

    Args:
      config: as configs/base.py, with total_steps.
      train: (records, weight) of the training data.
      cache: fetches the shards of a step and those after it whenever the step is asked for.
      rows: int64 (b,), rows of the global batch that this process reads.
      start_step: the first step that is read.

    Returns:
      A function step -> int64 (b,), indices into the concatenated sources.
    """
    order = order_of(config, train)
    streams = np.unique(rows // order.rows).tolist()
    newest, held = -1, None

    def indices(step: int) -> np.ndarray:
        nonlocal newest, held
        step = int(step)  # of NumPy's type
        if cache is not None and step > newest:  # two steps may be asked for at once
            addresses = window.needed(
                order, step, streams, start_step=start_step, total_steps=config.total_steps
            )
            newest = step
            if addresses != held:
                held = addresses
                cache.want(files_of(order, addresses, config.data, train))
        return window.batch_indices(order, step, rows)

    return indices


def files_of(
    order: window.Order,
    addresses: Sequence[window.Address],
    data: ConfigDict,
    train: Sequence[tuple[Records, float]],
) -> list[str]:
    """The shards to be copied for some windows, in their order."""
    return [
        train[address.source][0].files[number]
        for address in addresses
        if is_copied(data, train[address.source][0])
        for number in order.files(address)
    ]


def check_streams(config: ConfigDict, rows: Sequence[np.ndarray]) -> None:
    """Checks that each process reads whole streams.

    Args:
      config: as configs/base.py.
      rows: of each process, the rows of the global batch that it reads.

    Raises:
      UserError: a stream that two processes would read, which would both fetch its shards.
    """
    streams, batch = config.data.window_streams, config.batch_size

    def fits(count: int) -> bool:
        size = batch // count
        return all(len(np.unique(r // size)) * size == len(r) for r in rows)

    if not fits(streams):
        fitting = [n for n in range(1, batch + 1) if batch % n == 0 and fits(n)]
        near = sorted(sorted(fitting, key=lambda n: abs(math.log(n / streams)))[:3])
        raise UserError(
            f'config.data.window_streams={streams} cannot be split over {len(rows)} processes, each '
            f'of which reads whole streams: take one of {", ".join(map(str, near))}'
        )


def check_disk(
    config: ConfigDict,
    train: Sequence[tuple[Records, float]],
    held_out: Records | None,
    rows: np.ndarray,
) -> None:
    """Checks that the copies of the shards fit the disk; deletes what killed processes have left.

    Args:
      config: as configs/base.py, with total_steps.
      train: (records, weight) of the training data.
      held_out: held-out pairs.
      rows: of this process.

    Raises:
      UserError: a disk or a limit that is too small.
    """
    data, folder = config.data, cache_folder(config.data)
    kept = [held_out] if held_out is not None and is_copied(data, held_out) else []
    if not any(is_copied(data, records) for records, _ in [*train, *((r, 1.0) for r in kept)]):
        return
    order = order_of(config, train)
    sizes = [shard_bytes(r) if is_copied(data, r) else [0] * len(r.files) for r, _ in train]
    epochs = [
        min(CHECKED_EPOCHS, math.ceil(config.total_steps * config.batch_size / length))
        for length in order.lengths
    ]
    streams = np.unique(rows // order.rows).tolist()
    most = window.most_bytes(order, streams, sizes, epochs)
    most += sum(sum(shard_bytes(records)) for records in kept)
    own_folder.remove_leftovers(folder)
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    for limit, words in (
        (free, f'{folder} has {in_gigabytes(free)} free'),
        (data.window_cache_gb * GIGABYTE or free, f'{data.window_cache_gb=:g}'),
    ):
        if most > limit:
            raise UserError(
                f'{words.replace("data.", "config.data.")}, but two windows of {len(streams)} '
                f'streams take up to {in_gigabytes(most)}: lower config.data.window_shards='
                f'{data.window_shards}, or give a larger disk with --config.data.window_cache=DIR'
            )


def shard_bytes(records: Records) -> list[int]:
    """About the size of each shard, by its share of the records: asking would take long."""
    total, count = records.bytes, sum(records.shards.values())
    return [math.ceil(total * length / count) for length in records.shards.values()]


def in_gigabytes(size: float) -> str:
    """12345678901 -> '12.3 GB'."""
    return f'{size / GIGABYTE:.3g} GB'
