"""From record sources and a step to a batch: index, read, decode, augment, tokenise."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from input_pipeline import images, sampler
from input_pipeline.sources import captions_of
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError


class Reader:
    """Reads records of several sources laid end to end; keeps what went wrong on a thread of tf.data."""

    def __init__(self, sources: Sequence, context_length: int):
        self._sources = sources
        self._starts = np.cumsum([0, *(len(s) for s in sources)])[:-1]
        self._context_length = context_length
        self.failure: UserError | None = None

    def read(self, indices_b: np.ndarray, caption_draws_b: np.ndarray):
        """Encoded images (b,) and tokens int32 (b, T); a draw in [0, 1) picks among captions."""
        try:
            records = self._records(indices_b)
        except UserError as error:
            self.failure = error  # tf.data passes on the text of an error, not the error
            raise
        captions = [captions_of(r) for r in records]
        chosen = [c[int(u * len(c))] for c, u in zip(captions, caption_draws_b, strict=True)]
        encoded = np.array([r['image'] for r in records], dtype=object)
        return encoded, tokenize(chosen, self._context_length)

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
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of steps start_step .. total_steps - 1; each depends on (seed, step) alone.

    Every host computes the indices of the global batch and reads its own slice, so that the
    global batch is the same on any number of hosts, and a start at any step costs nothing.

    Args:
      sources: random-access records {'image': bytes, 'captions': [bytes, ...]}, with weights.
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

    Raises:
      UserError: a record that cannot be read, by file and place; a weight that is too small.
    """
    local = batch_size // process_count
    mine = slice(process_index * local, (process_index + 1) * local)
    reader = Reader([source for source, _ in sources], context_length)
    lengths = [len(source) for source, _ in sources]
    weights = [weight for _, weight in sources]

    def plan(step):
        indices = sampler.batch_indices(
            step, seed=seed, batch_size=batch_size, lengths=lengths, weights=weights
        )
        # Drawn for the global batch, so that a sample's crop does not hang on its host.
        draws = tf.random.stateless_uniform(
            [batch_size, 1 + images.DRAWS], tf.stack([tf.cast(seed, tf.int64), step])
        )[mine]
        encoded, tokens = tf.numpy_function(
            reader.read, [indices[mine], draws[:, 0]], (tf.string, tf.int32), stateful=False
        )
        encoded.set_shape([local])
        tokens.set_shape([local, context_length])
        return {'encoded': encoded, 'tokens': tokens, 'draws': draws[:, 1:]}

    def view(sample):
        image = images.random_resized_crop(
            sample['encoded'], sample['draws'], image_size=image_size, scale=crop_scale
        )
        return {'images': image, 'tokens': sample['tokens']}

    dataset = tf.data.Dataset.range(start_step, total_steps)
    dataset = dataset.map(plan, num_parallel_calls=2, deterministic=True)
    dataset = dataset.unbatch().map(view, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(local, drop_remainder=True).prefetch(2)
    return with_failures(dataset.as_numpy_iterator(), reader)


def with_failures(batches: Iterator, reader: Reader) -> Iterator[dict[str, np.ndarray]]:
    """The batches; an error of the reader comes as itself and not as tf.data wraps it."""
    try:
        yield from batches
    except tf.errors.OpError:
        if reader.failure is not None:
            raise reader.failure from None
        raise


def eval_batches(
    source: Sequence, *, batch_size: int, image_size: int, context_length: int
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
