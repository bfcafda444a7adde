"""Prepared data sets: TFDS's own folder format over ArrayRecord shards, written shard by shard."""

import functools
import os
from pathlib import Path

from array_record.python import array_record_module

from input_pipeline.raw_samples import RawSample
from input_pipeline.validate import DropError, check_caption, check_image

NAME = 'pairs'  # of data sets that prepare writes, and of their files
SPLIT = 'train'
VERSION = '1.0.0'


@functools.cache
def features():
    """Features of an image-text data set: what the train pipeline reads."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'captions': tfds.features.Sequence(tfds.features.Text()),
            'key': tfds.features.Text(),
        }
    )


@functools.cache
def serializer():
    from tensorflow_datasets.core import example_serializer

    return example_serializer.ExampleSerializer(features().get_serialized_info())


def example_of(sample: RawSample, max_side: int | None = None) -> dict:
    """A raw sample, checked, as an example of `features`.

    Args:
      sample: as found.
      max_side: pixels; a larger image is scaled down to it.

    Raises:
      DropError: with the reason for which the sample is left out.
    """
    if sample.defect:
        raise DropError(sample.defect)
    if sample.image is None:
        raise DropError('no_image')
    if sample.caption is None:
        raise DropError('no_caption')
    caption = check_caption(sample.caption)
    image = check_image(sample.image, max_side)
    return {'image': image.jpeg, 'captions': [caption], 'key': sample.key}


def shard_name(index: int, count: int) -> str:
    return f'{NAME}-{SPLIT}.array_record-{index:05}-of-{count:05}'


class ShardWriter:
    """Writes records beside their file and renames at the end; left early, it leaves nothing."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + '.partial')

    def __enter__(self):
        # Groups of one: records are read in shuffled order, one at a time.
        self._writer = array_record_module.ArrayRecordWriter(str(self._partial), 'group_size:1')
        self.bytes = 0
        return self

    def write(self, example: dict) -> None:
        proto = serializer().get_tf_example(features().encode_example(example))
        # Without `deterministic` each process orders the features in its own way.
        record = proto.SerializeToString(deterministic=True)
        self.bytes += len(record)
        self._writer.write(record)

    def __exit__(self, kind, *_):
        try:
            self._writer.close()  # writes what it held back: here a full disk shows
            if kind is None:
                with open(self._partial, 'rb') as file:
                    os.fsync(file.fileno())
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_metadata(folder: Path, shard_lengths: list[int], num_bytes: int) -> None:
    """Makes a folder of shards a data set that TFDS opens; written last."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split=SPLIT, filetype_suffix='array_record'
    )
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=shard_lengths, num_bytes=num_bytes, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(),
        split_infos=[info],
        version=VERSION,
        filename_template=template,
        check_data=False,  # it would read by tf.data, which ArrayRecord has no part in
        description='Image-text pairs, checked and prepared for training.',
    )
