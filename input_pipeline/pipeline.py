"""Training batches from record sources and a step: index, read, decode, augment, tokenise.

Shape letters: B the global batch, b the rows of this host (or of one call), U uniform numbers of a
sample, T tokens, g samples of a group.
"""

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from input_pipeline import crops, images, sampler, text_masking
from input_pipeline.sources import captions_of
from input_pipeline.text_masking import TextMask
from input_pipeline.tokenizer import padded
from pgs.errors import UserError

CLOSE_SECONDS = 5.0  # to wait for reads that have begun
GROUP = 20  # images that one call decodes and resizes, which share the cost of the call
TEXT_SEED = 1  # folded into a step's seed for the text masks, whose draws are apart from the crops'


class Source(Protocol):
    """Random access to records {'image': bytes, 'captions': [bytes, ...]}."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int], /) -> list[dict[str, Any]]: ...


class Reader:
    """Reads records of concatenated sources, on a thread of tf.data.

    Attributes:
      failure: the error that ended the last read, or None.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        context_length: int,
        crop_scale: tuple[float, float],
        mask_text: TextMask,
    ):
        self._sources = sources
        self._crop_scale = crop_scale
        self._starts = np.cumsum([0, *(len(s) for s in sources)])[:-1]
        self._context_length = context_length
        self._mask_text = mask_text
        self.failure: UserError | None = None

    def read(
        self, indices_b: np.ndarray, draws_bxU: np.ndarray, text_seeds_b: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads records, and chooses a caption and a crop of each.

        Args:
          indices_b: int64, into the concatenated sources.
          draws_bxU: (b, 1 + crops.DRAWS) in [0, 1); the first chooses the caption, the others the
            crop.
          text_seeds_b: int64, >= 0; the seed of each caption's mask.

        Returns:
          (encoded images (b,), crop boxes int32 (b, 4), tokens int32 (b, T)).

        Raises:
          UserError: a record that cannot be read.
        """
        try:
            records = self._records(indices_b)
        except UserError as error:
            self.failure = error  # tf.data keeps only the text of an error
            raise
        captions = [captions_of(r) for r in records]
        chosen = [c[int(u * len(c))] for c, u in zip(captions, draws_bxU[:, 0], strict=True)]
        sizes_bx2 = np.array([images.image_size(r['image']) for r in records])
        boxes = crops.crop_boxes(sizes_bx2, draws_bxU[:, 1:], self._crop_scale)
        encoded = np.array([r['image'] for r in records], dtype=object)
        kept = [
            self._mask_text(caption, self._context_length - 2, int(seed))
            for caption, seed in zip(chosen, text_seeds_b, strict=True)
        ]
        return encoded, boxes, padded(kept, self._context_length)

    def _records(self, indices_b: np.ndarray) -> list[dict[str, Any]]:
        source_b = np.searchsorted(self._starts, indices_b, side='right') - 1
        records: dict[int, dict[str, Any]] = {}
        for number in np.unique(source_b):
            slots = np.flatnonzero(source_b == number)
            local = (indices_b[slots] - self._starts[number]).tolist()
            records |= zip(slots, self._sources[number].__getitems__(local), strict=True)
        return [records[slot] for slot in range(len(indices_b))]


def train_batches(
    sources: Sequence[tuple[Source, float]],
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    image_size: int,
    context_length: int,
    crop_scale: tuple[float, float],
    scaled_decode: bool = False,
    mask_text: TextMask = text_masking.truncate,
    rows: np.ndarray | None = None,
    order: Callable[[int], np.ndarray] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the steps start_step .. total_steps - 1; each depends only on (seed, step).

    Every host computes the indices of the global batch and reads its own rows. So the global batch
    is the same on any number of hosts, and starting at a later step costs nothing.

    Args:
      sources: (source, weight) pairs.
      seed: of the run; determines shuffling, captions, crops and text masks.
      batch_size: B, of the global batch.
      start_step, total_steps: range of steps.
      image_size: pixels.
      context_length: T, tokens of a caption.
      crop_scale: smallest and largest area of the random resized crop, as shares of the image.
      scaled_decode: see `crops.cropped`.
      mask_text: shortens captions to the context length, see `text_masking`.
      rows: rows of the global batch that this host reads, ascending; None: all.
      order: step -> int64 (b,), indices of this host's rows into the concatenated sources; None: a
        shuffle of all records.

    Yields:
      {'images': uint8 (b, image_size, image_size, 3), 'tokens': int32 (b, context_length)}, where
      b is the number of rows.

    Raises:
      UserError: a record that cannot be read (names file and place), or a weight that is too small.
    """
    rows = np.arange(batch_size) if rows is None else rows
    local = len(rows)
    group = max(n for n in range(1, GROUP + 1) if local % n == 0)
    reader = Reader([source for source, _ in sources], context_length, crop_scale, mask_text)
    lengths = [len(source) for source, _ in sources]
    weights = [weight for _, weight in sources]

    def ordered(step):
        assert order is not None
        try:
            return order(step)
        except UserError as error:
            reader.failure = error  # tf.data keeps only the text of an error
            raise

    def chosen(step):
        if order is not None:
            return tf.numpy_function(ordered, [step], tf.int64, stateful=False)
        indices = sampler.batch_indices(
            step, seed=seed, batch_size=batch_size, lengths=lengths, weights=weights
        )
        return tf.gather(indices, rows)

    def plan(step):
        # Drawn for the global batch, so that a sample's crop does not depend on its host.
        key = tf.stack([tf.cast(seed, tf.int64), step])
        draws = tf.random.stateless_uniform([batch_size, 1 + crops.DRAWS], key)
        text_seeds = tf.random.stateless_uniform(
            [batch_size],
            tf.random.experimental.stateless_fold_in(key, TEXT_SEED),
            minval=0,
            maxval=tf.int64.max,
            dtype=tf.int64,
        )
        mine = [chosen(step), *(tf.gather(values, rows) for values in (draws, text_seeds))]
        encoded, boxes, tokens = tf.numpy_function(
            reader.read, mine, (tf.string, tf.int32, tf.int32), stateful=False
        )
        return {
            'encoded': tf.reshape(encoded, [-1, group]),
            'boxes': tf.reshape(boxes, [-1, group, 4]),
            'tokens': tf.reshape(tokens, [-1, group, context_length]),
        }

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(plan, num_parallel_calls=2, deterministic=True).unbatch()
    dataset = views(
        dataset, local, image_size=image_size, context_length=context_length, scaled=scaled_decode
    )
    return with_failures(dataset.as_numpy_iterator(), reader)


def views(
    groups: tf.data.Dataset,
    rows: int,
    *,
    image_size: int,
    context_length: int,
    scaled: bool = False,
) -> tf.data.Dataset:
    """Decodes, crops and resizes groups of samples, and joins them into batches.

    Args:
      groups: {'encoded': (g,), 'boxes': int32 (g, 4), 'tokens': int32 (g, T)}, where g divides rows.
      rows: b, samples of a batch on this host.
      image_size: pixels.
      context_length: T.
      scaled: see `crops.cropped`.
    """

    def view(samples):
        pixels = crops.cropped(
            samples['encoded'], samples['boxes'], image_size=image_size, scaled=scaled
        )
        return {'images': pixels, 'tokens': samples['tokens']}

    def joined(batch):
        return {
            'images': tf.reshape(batch['images'], [rows, image_size, image_size, 3]),
            'tokens': tf.reshape(batch['tokens'], [rows, context_length]),
        }

    group = groups.element_spec['encoded'].shape[0]
    # A fixed number, because autotuning starts at one and needs thousands of images to converge.
    calls = 2 * (os.cpu_count() or 1)
    groups = groups.map(view, num_parallel_calls=calls, deterministic=True)
    return groups.batch(rows // group, drop_remainder=True).map(joined).prefetch(2)


def with_failures(batches: Iterator, reader: Reader) -> Iterator[dict[str, np.ndarray]]:
    """The batches; raises the reader's own error instead of the one that tf.data wraps it in.

    At the end, after an error, and when the generator is closed, the iterator is destroyed, which
    stops its threads. TensorFlow has no function for that: nothing may refer to the iterator.
    """
    iterators = [batches]
    del batches
    try:
        while True:
            try:
                batch = next(iterators[0])
            except StopIteration:
                return
            except tf.errors.OpError as error:
                traceback.clear_frames(error.__traceback__)  # they refer to the iterator
                if reader.failure is not None:
                    raise reader.failure from None
                raise
            yield batch
            del batch
    finally:
        # A reader that never returns, such as of a dead mount, must not hold up the end.
        closing = threading.Thread(target=iterators.clear, name='close data', daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
