"""Prepared data sets: a TFDS folder of ArrayRecord files, written shard by shard.

Imports TensorFlow Datasets only where it is needed, so that worker processes start quickly.
"""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from array_record.python import array_record_module

from input_pipeline.raw.samples import RawSample
from input_pipeline.validate import DropError, check_caption, check_image

if TYPE_CHECKING:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import example_serializer

NAME = 'pairs'  # of the data sets that `preparation` writes, and of their files
SPLIT, HELD_OUT_SPLIT = 'train', 'validation'
VERSION = '1.0.0'


@functools.cache
def features() -> 'tfds.features.FeaturesDict':
    """The features of an image-text data set, as the training pipeline reads them."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'captions': tfds.features.Sequence(tfds.features.Text()),
            'key': tfds.features.Text(),
        }
    )


@functools.cache
def serializer() -> 'example_serializer.ExampleSerializer':
    """Turns encoded examples of `features` into protocol buffers."""
    from tensorflow_datasets.core import example_serializer

    return example_serializer.ExampleSerializer(features().get_serialized_info())


def example_of(sample: RawSample, max_side: int | None = None) -> dict[str, Any]:
    """Checks a raw sample and returns it as an example of `features`.

    Args:
      sample: before any check.
      max_side: pixels; an image with a longer side is scaled down to it.

    Returns:
      The example; of several captions it has those that pass the checks.

    Raises:
      DropError: a sample to be left out, with the reason; that of its first caption if none passes.
    """
    if sample.defect:
        raise DropError(sample.defect)
    if sample.image is None:
        raise DropError('no_image')
    if not sample.captions:
        raise DropError('no_caption')
    captions, drops = [], []
    for caption in sample.captions:
        try:
            captions.append(check_caption(caption))
        except DropError as drop:
            drops.append(drop)
    if not captions:
        raise drops[0]
    image = check_image(sample.image, max_side)
    return {'image': image.jpeg, 'captions': captions, 'key': sample.key}


def shard_name(index: int, count: int, split: str = SPLIT) -> str:
    """The file name that TFDS expects of shard `index` of `count`."""
    return f'{NAME}-{split}.array_record-{index:05}-of-{count:05}'


class ShardWriter:
    """Writes an ArrayRecord file under a temporary name, renamed when the block ends.

    An error within the block leaves no file. Not `files.replacing`, because ArrayRecord opens its
    file by path.

    Attributes:
      bytes, records: size and number of the records so far.
    """

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + '.partial')

    def __enter__(self) -> Self:
        # Groups of one: records are read one at a time, in shuffled order.
        self._writer = array_record_module.ArrayRecordWriter(str(self._partial), 'group_size:1')
        self.bytes = self.records = 0
        return self

    def write(self, example: dict[str, Any]) -> None:
        """Appends an example of `features`."""
        proto = serializer().get_tf_example(features().encode_example(example))
        # Without `deterministic` the order of the features differs between processes.
        record = proto.SerializeToString(deterministic=True)
        self.bytes += len(record)
        self.records += 1
        self._writer.write(record)

    def __exit__(self, error_type: type[BaseException] | None, *_) -> None:
        try:
            self._writer.close()  # writes buffered records, so it fails if the disk is full
            if error_type is None:
                with open(self._partial, 'rb') as file:
                    os.fsync(file.fileno())
                written = array_record_module.ArrayRecordReader(str(self._partial)).num_records()
                if written != self.records:
                    raise OSError(f'{self._partial} holds {written} of {self.records} records')
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)


class Split(NamedTuple):
    """The size of a split."""

    shard_lengths: list[int]  # records of each shard
    num_bytes: int  # of all records


def write_metadata(folder: Path, splits: dict[str, Split]) -> None:
    """Writes the files that make a folder of shards a TFDS data set; called last.

    Args:
      folder: of the shards.
      splits: by name.
    """
    import tensorflow_datasets as tfds

    templates = {
        name: tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=name, filetype_suffix='array_record'
        )
        for name in splits
    }
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=split.shard_lengths,
            num_bytes=split.num_bytes,
            filename_template=templates[name],
        )
        for name, split in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(),
        split_infos=infos,
        version=VERSION,
        filename_template=templates[SPLIT],
        check_data=False,  # the check reads with tf.data, which does not support ArrayRecord
        description='Image-text pairs, checked and prepared for training.',
    )
