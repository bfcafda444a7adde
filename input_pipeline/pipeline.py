"""From record sources and a step to a batch: index, read, decode, augment, tokenise."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from input_pipeline import images, sampler
from input_pipeline.sources import captions_of
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError

GROUP = 20  # images that one call decodes and resizes: what a call costs is shared


class Reader:
    """Reads records of several sources laid end to end; keeps what went wrong on a thread of tf.data."""

    def __init__(self, sources: Sequence, context_length: int, crop_scale: tuple[float, float]):
        self._sources = sources
        self._crop_scale = crop_scale
        self._starts = np.cumsum([0, *(len(s) for s in sources)])[:-1]
        self._context_length = context_length
        self.failure: UserError | None = None

    def read(self, indices_b: np.ndarray, draws_bxU: np.ndarray):
        """Encoded images (b,), crop boxes int32 (b, 4), tokens int32 (b, T).

        The draws are uniform in [0, 1): the first picks among captions, the rest make the crop.
        """
        try:
            records = self._records(indices_b)
        except UserError as error:
            self.failure = error  # tf.data passes on the text of an error, not the error
            raise
        captions = [captions_of(r) for r in records]
        chosen = [c[int(u * len(c))] for c, u in zip(captions, draws_bxU[:, 0], strict=True)]
        sizes = [images.image_size(r['image']) for r in records]
        boxes = images.crop_boxes(sizes, draws_bxU[:, 1:], self._crop_scale)
        encoded = np.array([r['image'] for r in records], dtype=object)
        return encoded, boxes, tokenize(chosen, self._context_length)

    def _records(self, indices_b: np.ndarray) -> list[dict]:
        which = np.searchsorted(self._starts, indices_b, side='right') - 1
        records = [None] * len(indices_b)
        for number in np.unique(which):
            slots = np.flatnonzero(which == number)
            local = (indices_b[slots] - self._starts[number]).tolist()
            for slot, record in zip(slots, self._sources[number].__getitems__(local), strict=True):
                records[slot] = record
        return records


def train_batches(
    sources: Sequence[tuple[Sequence, float]],
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    image_size: int,
    context_length: int,
    crop_scale: tuple[float, float],
    rows: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of steps start_step .. total_steps - 1; each depends on (seed, step) alone.

    Every host computes the indices of the global batch and reads its own rows, so that the
    global batch is the same on any number of hosts, and a start at any step costs nothing.

    Args:
      sources: random-access records {'image': bytes, 'captions': [bytes, ...]}, with weights.
      seed: of the run; shuffling, captions and crops follow from it.
      batch_size: of the global batch.
      start_step, total_steps: range of steps.
      image_size: pixels.
      context_length: tokens of a caption.
      crop_scale: area of the random resized crop, as shares of the image.
      rows: which rows of the global batch this host reads, ascending; None for all.

    Yields:
      images: uint8 (b, image_size, image_size, 3); tokens: int32 (b, context_length), with
      b the number of rows.

    Raises:
      UserError: a record that cannot be read, by file and place; a weight that is too small.
    """
    rows = np.arange(batch_size) if rows is None else rows
    local = len(rows)
    group = max(n for n in range(1, GROUP + 1) if local % n == 0)
    reader = Reader([source for source, _ in sources], context_length, crop_scale)
    lengths = [len(source) for source, _ in sources]
    weights = [weight for _, weight in sources]

    def plan(step):
        indices = sampler.batch_indices(
            step, seed=seed, batch_size=batch_size, lengths=lengths, weights=weights
        )
        # Drawn for the global batch, so that a sample's crop does not hang on its host.
        draws = tf.random.stateless_uniform(
            [batch_size, 1 + images.DRAWS], tf.stack([tf.cast(seed, tf.int64), step])
        )
        mine = [tf.gather(indices, rows), tf.gather(draws, rows)]
        encoded, boxes, tokens = tf.numpy_function(
            reader.read, mine, (tf.string, tf.int32, tf.int32), stateful=False
        )
        return {
            'encoded': tf.reshape(encoded, [-1, group]),
            'boxes': tf.reshape(boxes, [-1, group, 4]),
            'tokens': tf.reshape(tokens, [-1, group, context_length]),
        }

    def view(samples):
        views = images.cropped(samples['encoded'], samples['boxes'], image_size=image_size)
        return {'images': views, 'tokens': samples['tokens']}

    def joined(groups):
        return {
            'images': tf.reshape(groups['images'], [local, image_size, image_size, 3]),
            'tokens': tf.reshape(groups['tokens'], [local, context_length]),
        }

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(plan, num_parallel_calls=2, deterministic=True)
    dataset = dataset.unbatch()
    # A fixed number: autotuning starts at one and takes thousands of images to find its way.
    dataset = dataset.map(view, num_parallel_calls=2 * os.cpu_count(), deterministic=True)
    dataset = dataset.batch(local // group, drop_remainder=True).map(joined).prefetch(2)
    return with_failures(dataset.as_numpy_iterator(), reader)


def with_failures(batches: Iterator, reader: Reader) -> Iterator[dict[str, np.ndarray]]:
    """The batches; an error of the reader comes as itself and not as tf.data wraps it."""
    try:
        yield from batches
    except tf.errors.OpError:
        if reader.failure is not None:
            raise reader.failure from None
        raise
