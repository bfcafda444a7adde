"""Random-access record sources: embedded sets, prepared folders, TFDS data sets, mixtures."""

import bisect
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from input_pipeline import openmoji, scenes
from pgs.errors import UserError
from pgs.utils.files import writing

# Data sets that are built on first use: name -> function(cache_dir) -> prepared TFDS builder.
EMBEDDED = {'openmoji': openmoji.prepare, 'openmoji_scenes': scenes.prepare}


class Records:
    """One split of a prepared data set; images stay encoded.

    A record that cannot be read raises a UserError that names its file and place. With skip=True it
    is replaced by the next readable record, with one warning for each record.

    Attributes:
      folder: of the files.
      split: its name.
      shards: {file name: number of records}.
      unreadable: indices of the records that were replaced.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, skip: bool = False):
        encoded = {
            name: tfds.decode.SkipDecoding()
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        info = builder.info.splits[split]
        self.folder, self.split = Path(builder.data_dir), split
        self.shards = {
            path.name: length
            for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
        }
        self._files = [str(path) for path in info.filepaths]
        self._ends = list(itertools.accumulate(info.shard_lengths))
        self._source = builder.as_data_source(split, decoders=encoded)
        self._skip = skip
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return self._ends[-1]

    def location(self, index: int) -> str:
        """'record 17 of FILE', for messages."""
        shard = bisect.bisect_right(self._ends, index)
        start = self._ends[shard - 1] if shard else 0
        return f'record {index - start} of {self._files[shard]}'

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        try:
            return self._source.__getitems__(indices)
        except Exception:  # the type depends on how the C++ reader meets the damage
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> dict[str, Any]:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self._source.__getitems__([candidate])[0]
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
        raise UserError(f'no record of {self._files[0]} or its other shards can be read')


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
    path = os.path.expanduser(folder)
    if '://' in path:
        raise UserError(
            f'config.data.dir={folder!r}: ArrayRecord reads local paths only; mount the bucket '
            '(gcsfuse) or copy the data set to a local disk'
        )
    absent = UserError(
        f'config.data.name={name!r}: no prepared data set in config.data.dir={folder!r}; '
        f'prepare one (docs/data.md), or use --config.data.name={" or ".join(EMBEDDED)}'
    )
    try:
        if (Path(path) / 'dataset_info.json').is_file():
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.builder(name, data_dir=path)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError) as error:
        raise absent from error
    if not builder.info.splits:  # TFDS knows the name, but the data set is not built here
        raise absent
    if {'image', 'captions'} - set(builder.info.features):
        raise UserError(f'data set {name!r} in {folder!r} lacks the features image and captions')
    return builder


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


def open_folder(folder: Path, split: str = 'train') -> Records:
    """Opens a split of a folder that `input_pipeline.prepare` wrote.

    Raises:
      UserError: another folder.
    """
    if not (folder / 'dataset_info.json').is_file():
        raise UserError(f'{folder} is not a prepared data set: run input_pipeline.prepare first')
    return Records(tfds.builder_from_directory(str(folder)), split)


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
