"""Opens evaluation sets, as CLIP-benchmark's tars or from TFDS, and decodes their images."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline import images, webdataset
from pgs.errors import UserError

DEFAULT_TEMPLATES = ('a photo of a {c}.',)
ImageSample = tuple[str, bytes, Any]  # name for messages, encoded image, label
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """One split of a set. Retrieval sets have no class names and no templates."""

    origin: str  # folder or TFDS name and split
    kind: str  # 'classification', 'multilabel' or 'retrieval'
    classnames: list[str]
    templates: list[str]
    count: int  # of samples, for the progress bar; an estimate for tars
    samples: Callable[[], Iterator[ImageSample]]  # starts to read, in order
    note: str = ''  # why the scores are not fully comparable; '': they are


def open_tars(data_root: Path, folder: str, split: str) -> LabelledImages | None:
    """Opens a split in CLIP-benchmark's layout, DATA/<folder> or DATA/wds_<folder>.

    Args:
      data_root: DATA, the folder of the sets.
      folder: name of the set's folder.
      split: name of the split.

    Returns:
      The split; None if there is no such folder.

    Raises:
      UserError: an incomplete folder.
    """
    for path in (data_root / folder, data_root / f'wds_{folder}'):
        if (path / split).is_dir():
            return from_tars(webdataset.open_eval_set(path, split), f'{path}, {split}')
        if path.is_dir() and split == 'test':
            raise UserError(f'{path} has no folder {split}: put its tars and nshards.txt there')
    return None


def from_tars(opened: webdataset.EvalSet, origin: str) -> LabelledImages:
    """The samples of an opened set; `origin` names it in messages."""

    def samples() -> Iterator[ImageSample]:
        for sample in webdataset.iter_samples(opened):
            yield (
                f'{origin}, sample {sample.key[: webdataset.tars.SHOWN]!r}',
                sample.image,
                sample.label,
            )

    count = webdataset.count_samples(opened)
    return LabelledImages(origin, opened.kind, opened.classnames, opened.templates, count, samples)


def open_tfds(data_root: Path, name: str, split: str) -> LabelledImages | None:
    """Opens a split of a TFDS set that is prepared under the data root; None if there is none.

    TFDS has no templates, so one default is used, and scores are not fully comparable.
    """
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_root)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError):
        return None
    if split.split('[')[0] not in builder.info.splits:
        return None
    label = builder.info.features['label']
    classnames = [text.replace('_', ' ') for text in label.names]

    def samples() -> Iterator[ImageSample]:
        encoded = {'image': tfds.decode.SkipDecoding()}
        dataset = builder.as_dataset(split=split, decoders=encoded, shuffle_files=False)
        for number, record in enumerate(dataset.as_numpy_iterator()):
            yield f'{name}: record {number} of {split}', record['image'], int(record['label'])

    return LabelledImages(
        f'TFDS {name}, {split}',
        'classification',
        classnames,
        list(DEFAULT_TEMPLATES),
        builder.info.splits[split].num_examples,
        samples,
        f"TFDS's class names and one template, {DEFAULT_TEMPLATES[0]!r}: clip-benchmark uses more",
    )


def image_batches(
    samples: Iterable[ImageSample], *, image_size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, list]]:
    """Decodes on all cores, one batch ahead of the caller; keeps two batches in memory.

    Args:
      samples: (name, encoded image, label).
      image_size: pixels.
      batch_size: samples of a batch; the last batch may be smaller.

    Yields:
      (uint8 (batch, image_size, image_size, 3), labels of the batch).

    Raises:
      UserError: an image that cannot be read; gives the sample's name.
    """

    def view(sample: ImageSample) -> np.ndarray:
        name, encoded, _ = sample
        try:
            return images.centre_crop(encoded, image_size=image_size)
        except ValueError as error:
            raise UserError(f'{name}: {error}: fetch that shard or file again') from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead: tuple[list[Future], list] | None = None
        for part in chunked(samples, batch_size):
            views = [pool.submit(view, sample) for sample in part]
            if ahead is not None:
                yield np.stack([v.result() for v in ahead[0]]), ahead[1]
            ahead = views, [label for _, _, label in part]
        if ahead is not None:
            yield np.stack([v.result() for v in ahead[0]]), ahead[1]


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items; the last list may be shorter."""
    part: list[T] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
