"""Random-access record sources: the embedded set, prepared folders, TFDS names, mixtures of them."""

import bisect
import itertools
import os
from pathlib import Path

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from input_pipeline import openmoji
from pgs.errors import UserError


class Records:
    """One split of a prepared data set; images stay encoded.

    A record that cannot be read is an error that names its file and place; with skip=True the
    next readable one stands in for it, and each is counted and told once.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, skip: bool = False):
        encoded = {
            name: tfds.decode.SkipDecoding()
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        info = builder.info.splits[split]
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

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self._source.__getitems__(indices)
        except Exception:  # the reader raises what its C++ side gives, by kind of damage
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> dict:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self._source.__getitems__([candidate])[0]
            except Exception as error:
                where = self.location(candidate)
                if not self._skip:
                    raise UserError(
                        f'cannot read {where}: {error}; prepare that shard again, or leave such '
                        'records out by --config.data.skip_unreadable=True'
                    ) from error
                if candidate not in self.unreadable:
                    self.unreadable.add(candidate)
                    print(f'warning: left out {where} ({len(self.unreadable)} unreadable so far)')
        raise UserError(f'no record of {self._files[0]} and its neighbours can be read')


def open_builder(name: str, folder: str, cache_dir: str) -> tfds.core.DatasetBuilder:
    """The prepared data set of a name; the embedded one is built where it is not.

    Args:
      name: 'openmoji', or a TFDS name, or any name where folder itself is a prepared data set.
      folder: a prepared folder, or one with TFDS data sets by name and version.
      cache_dir: of the embedded data set.

    Raises:
      UserError: unknown or unprepared data set, or a cache folder that cannot be written.
    """
    if name == 'openmoji':
        try:
            return openmoji.prepare(cache_dir)
        except OSError as error:
            raise UserError(
                f'cannot prepare openmoji under config.data.cache_dir={cache_dir!r}: {error}; '
                'give a folder that can be written'
            ) from error
    path = os.path.expanduser(folder)
    if '://' in path:
        raise UserError(
            f'config.data.dir={folder!r}: ArrayRecord reads local paths only; mount the bucket '
            '(gcsfuse) or copy the data set to a local disk'
        )
    absent = UserError(
        f'config.data.name={name!r}: no prepared data set in config.data.dir={folder!r}; '
        'prepare one (docs/data.md), or take --config.data.name=openmoji'
    )
    try:
        if (Path(path) / 'dataset_info.json').is_file():
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.builder(name, data_dir=path)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError) as error:
        raise absent from error
    if not builder.info.splits:  # a name that TFDS knows, and that nobody has built here
        raise absent
    if {'image', 'captions'} - set(builder.info.features):
        raise UserError(f'data set {name!r} in {folder!r} lacks the features image and captions')
    return builder


def open_split(
    name: str, folder: str, cache_dir: str, split: str, *, skip: bool = False
) -> Records:
    """One split of a data set.

    Raises:
      UserError: as open_builder, and for a split that is not there or holds nothing.
    """
    builder = open_builder(name, folder, cache_dir)
    splits = builder.info.splits
    if split not in splits or not splits[split].num_examples:
        known = ', '.join(splits) or 'none'
        raise UserError(f'data set {name!r} has no split {split!r}: it has {known}')
    return Records(builder, split, skip=skip)


def open_folder(folder: Path) -> Records:
    """The train split of a folder that `prepare` wrote."""
    if not (folder / 'dataset_info.json').is_file():
        raise UserError(f'{folder} is no prepared data set: run input_pipeline.prepare first')
    return Records(tfds.builder_from_directory(str(folder)), 'train')


def mixture_rows(data: ConfigDict) -> list[tuple[str, str, float]]:
    """(name, dir, weight) of each data set that config.data trains on; one row without a mixture.

    Raises:
      UserError: a mixture whose rows are not (name, dir, positive weight).
    """
    rows = data.mixture or ((data.name, data.dir, 1.0),)
    for row in rows:
        if len(row) != 3 or not row[2] > 0:
            raise UserError(
                f'config.data.mixture row {tuple(row)} must be (name, dir, weight above 0)'
            )
    return [(name, folder, float(weight)) for name, folder, weight in rows]


def open_train(data: ConfigDict) -> list[tuple[Records, float]]:
    """The data sets that config.data trains on, each with its weight.

    Raises:
      UserError: as `open_split` and `mixture_rows`.
    """
    return [
        (
            open_split(name, folder, data.cache_dir, data.train_split, skip=data.skip_unreadable),
            weight,
        )
        for name, folder, weight in mixture_rows(data)
    ]


def open_held_out(data) -> Records | None:
    """The validation split of config.data.name, None where the data set has none."""
    builder = open_builder(data.name, data.dir, data.cache_dir)
    if data.validation_split not in builder.info.splits:
        return None
    return Records(builder, data.validation_split)


def captions_of(record: dict) -> list[str]:
    return [c.decode('utf-8', 'replace') for c in record['captions']]
