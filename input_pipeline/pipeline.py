"""From a data set and a step to a batch: index, read, decode, augment, tokenise."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from input_pipeline import images, openmoji, sampler
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError

Source = Sequence  # of records {'image': bytes, 'captions': [bytes, ...], ...}, random access


def open_builder(data) -> tfds.core.DatasetBuilder:
    """The prepared data set that config.data names; the embedded one is built where it is not.

    Raises:
      UserError: unknown or unprepared data set, or a cache folder that cannot be written.
    """
    if data.name != 'openmoji':
        return open_tfds(data)
    try:
        return openmoji.prepare(data.cache_dir)
    except OSError as error:
        raise UserError(
            f'cannot prepare openmoji under config.data.cache_dir={data.cache_dir!r}: {error}; '
            'give a folder that can be written'
        ) from error


def has_split(data, split: str) -> bool:
    return split in open_builder(data).info.splits


def open_source(data, split: str) -> Source:
    """Opens one split of the data set that config.data names.

    Args:
      data: config.data, with name, dir and cache_dir.
      split: of the data set, such as 'train'.

    Returns:
      A random-access source of records, images still encoded.

    Raises:
      UserError: as open_builder, and for a split that the data set lacks.
    """
    builder = open_builder(data)
    if split not in builder.info.splits:
        raise UserError(
            f'data set {data.name!r} has no split {split!r}: it has {", ".join(builder.info.splits)}'
        )
    skipped = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return builder.as_data_source(split, decoders=skipped)


def open_tfds(data) -> tfds.core.DatasetBuilder:
    """A data set that TFDS has prepared as ArrayRecord under config.data.dir."""
    folder = os.path.expanduser(data.dir)
    try:
        builder = tfds.builder(data.name, data_dir=folder)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f'config.data.name={data.name!r}: TFDS finds no such data set in '
            f'config.data.dir={data.dir!r}; prepare it there, or take --config.data.name=openmoji'
        ) from error
    if {'image', 'captions'} - set(builder.info.features):
        raise UserError(f'data set {data.name!r} lacks the features image and captions')
    return builder


def captions_of(record) -> list[str]:
    return [c.decode('utf-8', 'replace') for c in record['captions']]


def train_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    image_size: int,
    context_length: int,
    crop_scale: tuple[float, float],
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of steps start_step .. total_steps - 1; each depends on (seed, step) alone.

    Every host computes the indices of the global batch and reads its own slice, so that the
    global batch is the same on any number of hosts, and a start at any step costs nothing.

    Args:
      source: records of one split.
      seed: of the run; shuffling, captions and crops follow from it.
      batch_size: of the global batch; process_count divides it.
      start_step, total_steps: range of steps.
      image_size: pixels.
      context_length: tokens of a caption.
      crop_scale: area of the random resized crop, as shares of the image.
      process_index, process_count: this host among all.

    Yields:
      images: uint8 (b, image_size, image_size, 3); tokens: int32 (b, context_length), with
      b = batch_size / process_count.
    """
    local = batch_size // process_count
    mine = slice(process_index * local, (process_index + 1) * local)

    def read(indices, caption_draws):
        records = source.__getitems__(indices.tolist())
        captions = [captions_of(r) for r in records]
        chosen = [c[int(u * len(c))] for c, u in zip(captions, caption_draws, strict=True)]
        encoded = np.array([r['image'] for r in records], dtype=object)
        return encoded, tokenize(chosen, context_length)

    def plan(step):
        positions = sampler.batch_positions(step, batch_size)
        indices = sampler.sample_indices(positions, seed=seed, num_examples=len(source))
        draws = tf.random.stateless_uniform([batch_size], tf.stack([seed, step]))
        encoded, tokens = tf.numpy_function(
            read, [indices[mine], draws[mine]], (tf.string, tf.int32), stateful=False
        )
        encoded.set_shape([local])
        tokens.set_shape([local, context_length])
        seeds = tf.stack([tf.fill([local], tf.constant(seed, tf.int64)), positions[mine]], axis=-1)
        return {'encoded': encoded, 'tokens': tokens, 'seeds': seeds}

    def view(sample):
        image = images.random_resized_crop(
            sample['encoded'], sample['seeds'], image_size=image_size, scale=crop_scale
        )
        return {'images': image, 'tokens': sample['tokens']}

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(plan, num_parallel_calls=2, deterministic=True)
    dataset = dataset.unbatch().map(view, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(local, drop_remainder=True).prefetch(2)
    return dataset.as_numpy_iterator()


def eval_batches(
    source: Source, *, batch_size: int, image_size: int, context_length: int
) -> Iterator[dict[str, np.ndarray]]:
    """One pass in order over a split, first caption each; the last batch is padded.

    Yields:
      images: uint8 (batch_size, image_size, image_size, 3); tokens: int32 (batch_size,
      context_length); real: bool (batch_size,), False for padding.
    """
    for start in range(0, len(source), batch_size):
        ids = list(range(start, min(start + batch_size, len(source))))
        records = source.__getitems__(ids)
        views = [images.centre_crop(r['image'], image_size=image_size).numpy() for r in records]
        tokens = tokenize([captions_of(r)[0] for r in records], context_length)
        short = batch_size - len(ids)
        yield {
            'images': np.pad(np.stack(views), ((0, short), (0, 0), (0, 0), (0, 0))),
            'tokens': np.pad(tokens, ((0, short), (0, 0))),
            'real': np.arange(batch_size) < len(ids),
        }
