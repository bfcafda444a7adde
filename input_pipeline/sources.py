"""Random-access record sources: embedded sets, prepared folders, TFDS data sets, mixtures."""

import bisect
import copy
import functools
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from ml_collections import ConfigDict

from input_pipeline import buckets, openmoji, scenes
from input_pipeline.shard_cache import ShardCache
from pgs.errors import UserError
from pgs.utils.files import absolute, writing

# Data sets that are built on first use: name -> function(cache_dir) -> prepared TFDS builder.
EMBEDDED = {'openmoji': openmoji.prepare, 'openmoji_scenes': scenes.prepare}


class Records:
    """One split of a prepared data set; images stay encoded.

    A record that cannot be read raises a UserError that names its file and place. With skip=True it
    is replaced by the next readable record, with one warning for each record.

    Attributes:
      folder: of the files, local or gs://.
      split: its name.
      shards: {file name: number of records}.
      files: path or address of each shard.
      bytes: size of all records.
      unreadable: indices of the records that were replaced.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, skip: bool = False):
        encoded = {
            name: tfds.decode.SkipDecoding()
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        info = builder.info.splits[split]
        self.folder, self.split = epath.Path(builder.data_dir), split
        self.shards = {
            path.name: length
            for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
        }
        self.files = [os.fspath(path) for path in info.filepaths]
        self.bytes = info.num_bytes
        self._ends = list(itertools.accumulate(info.shard_lengths))
        self._decode = functools.partial(
            builder.info.features.deserialize_example_np, decoders=encoded
        )
        source = builder.as_data_source(split, decoders=encoded)
        self._read: Callable[[list[int]], list[dict[str, Any]]] = source.__getitems__
        self._skip = skip
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return self._ends[-1]

    def location(self, index: int) -> str:
        """'record 17 of FILE', for messages."""
        shard = bisect.bisect_right(self._ends, index)
        start = self._ends[shard - 1] if shard else 0
        return f'record {index - start} of {self.files[shard]}'

    def through(self, cache: ShardCache) -> 'Records':
        """The same records, read from whole copies of the shards in a cache."""
        twin = copy.copy(self)
        twin._read = functools.partial(self._read_copies, cache)
        return twin

    def _read_copies(self, cache: ShardCache, indices: list[int]) -> list[dict[str, Any]]:
        places: dict[int, list[int]] = {}  # shard -> places of its records in `indices`
        for place, index in enumerate(indices):
            places.setdefault(bisect.bisect_right(self._ends, index), []).append(place)
        encoded: dict[int, bytes] = {}
        for shard, mine in places.items():
            start = self._ends[shard - 1] if shard else 0
            reader = cache.reader(self.files[shard])
            encoded |= zip(mine, reader.read([indices[p] - start for p in mine]), strict=True)
        return [self._decode(encoded[place]) for place in range(len(indices))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        try:
            return self._read(indices)
        except UserError:  # of the cache: no shard, and not only no record
            raise
        except Exception:  # the type depends on how the C++ reader meets the damage
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> dict[str, Any]:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self._read([candidate])[0]
            except UserError:
                raise
            except Exception as error:
                where = self.location(candidate)
                if not self._skip:
                    raise UserError(
                        f'cannot read {where}: {error}; prepare that shard again, or skip '
                        'unreadable records with --config.data.skip_unreadable=True'
                    ) from error
                if candidate not in self.unreadable:
                    self.unreadable.add(candidate)
                    print(f'warning: skipped {where} ({len(self.unreadable)} unreadable so far)')
        raise UserError(f'no record of {self.files[0]} or its other shards can be read')


def open_builder(name: str, folder: str, cache_dir: str) -> tfds.core.DatasetBuilder:
    """Opens a prepared data set; builds an embedded one if necessary.

    Args:
      name: a name of EMBEDDED or a TFDS name; any name if folder itself is a prepared data set.
      folder: a prepared folder, or a folder of TFDS data sets by name and version.
      cache_dir: folder in which embedded data sets are built.

    Raises:
      UserError: an unknown or unprepared data set, one without images or captions, or a cache
        folder that cannot be written.
    """
    if name in EMBEDDED:
        with writing(f'{name} to config.data.cache_dir={cache_dir!r}', 'give a writable folder'):
            return EMBEDDED[name](cache_dir)
    path, what = os.path.expanduser(folder), f'config.data.dir={folder!r}'
    buckets.check_scheme(what, path)
    absent = UserError(
        f'config.data.name={name!r}: no prepared data set in config.data.dir={folder!r}; '
        f'prepare one (docs/data.md), or use --config.data.name={" or ".join(EMBEDDED)}'
    )
    try:
        if is_prepared(path, f'cannot read {what}'):
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.builder(name, data_dir=path)
    except UserError:
        raise
    except (
        tfds.core.registered.DatasetNotFoundError,
        tf.errors.NotFoundError,
        ValueError,
        OSError,
    ) as error:
        raise absent from error
    except tf.errors.OpError as error:
        raise UserError(f'cannot read {what}: {buckets.explain(error)}') from error
    if not builder.info.splits:  # TFDS knows the name, but the data set is not built here
        raise absent
    if {'image', 'captions'} - set(builder.info.features):
        raise UserError(f'data set {name!r} in {folder!r} lacks the features image and captions')
    return builder


def is_prepared(path: str, what: str) -> bool:
    """Whether a folder or an address is itself a data set.

    Args:
      path: of the folder.
      what: cannot be done without an answer, for messages.

    Raises:
      UserError: see `buckets.exists`.
    """
    info = f'{path.rstrip("/")}/dataset_info.json'
    return buckets.exists(what, info) if buckets.is_bucket(path) else os.path.isfile(info)


def open_split(
    name: str, folder: str, cache_dir: str, split: str, *, skip: bool = False
) -> Records:
    """Opens one split of a data set.

    Args:
      name, folder, cache_dir: see `open_builder`.
      split: name.
      skip: replace unreadable records, see `Records`.

    Raises:
      UserError: see `open_builder`; also a split that does not exist or is empty.
    """
    builder = open_builder(name, folder, cache_dir)
    splits = builder.info.splits
    if split not in splits or not splits[split].num_examples:
        known = ', '.join(splits) or 'none'
        raise UserError(f'data set {name!r} has no split {split!r}: it has {known}')
    return Records(builder, split, skip=skip)


def open_folder(folder: str | os.PathLike, split: str = 'train') -> Records:
    """Opens a split of a folder that `input_pipeline.prepare` wrote, local or gs://.

    Raises:
      UserError: another folder, or an address that cannot be read.
    """
    path = os.fspath(absolute(folder))
    if not is_prepared(path, f'cannot read {path}'):
        raise UserError(f'{folder} is not a prepared data set: run input_pipeline.prepare first')
    with buckets.errors_named(f'cannot read {path}'):
        return Records(tfds.builder_from_directory(path), split)


def mixture_rows(data: ConfigDict) -> list[tuple[str, str, float]]:
    """(name, dir, weight) of each training data set of config.data; one row without a mixture.

    Raises:
      UserError: a row that is not (name, dir, positive weight).
    """
    rows = data.mixture or ((data.name, data.dir, 1.0),)
    for row in rows:
        if not is_mixture_row(row):
            raise UserError(f'config.data.mixture row {row!r} must be (name, dir, weight above 0)')
    return [(name, folder, float(weight)) for name, folder, weight in rows]


def is_mixture_row(row: Any) -> bool:
    """Whether it is (name, dir, finite weight above 0)."""
    if not isinstance(row, tuple | list) or len(row) != 3:
        return False
    name, folder, weight = row
    texts = isinstance(name, str) and isinstance(folder, str)
    return texts and isinstance(weight, int | float) and 0 < weight <= sys.float_info.max


def open_train(data: ConfigDict) -> list[tuple[Records, float]]:
    """Opens the training data sets of config.data; returns (records, weight) pairs.

    Raises:
      UserError: see `open_split` and `mixture_rows`.
    """
    return [
        (
            open_split(name, folder, data.cache_dir, data.train_split, skip=data.skip_unreadable),
            weight,
        )
        for name, folder, weight in mixture_rows(data)
    ]


def open_held_out(data: ConfigDict) -> Records | None:
    """Opens the validation split of config.data.name; None if the data set has none.

    Raises:
      UserError: see `open_builder`.
    """
    builder = open_builder(data.name, data.dir, data.cache_dir)
    if data.validation_split not in builder.info.splits:
        return None
    return Records(builder, data.validation_split)


def captions_of(record: dict[str, Any]) -> list[str]:
    """The captions of a record as text."""
    return [c.decode('utf-8', 'replace') for c in record['captions']]
