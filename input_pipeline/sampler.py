"""Which samples make a batch: a pure function of (seed, step), with nothing to save or restore."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pgs.errors import UserError

# Of the cipher that permutes. With TensorFlow's 4 and keys as plain as (0, 1), half of 100 records
# stayed in place; with 16 about one did, as by chance, at any size that was tried.
ROUNDS = 16


def batch_shares(weights: Sequence[float], batch_size: int) -> np.ndarray:
    """Shares of the sources, float64, summing to 1.

    Raises:
      UserError: a weight too small for one sample a batch.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    if len(shares) > 1 and (shares * batch_size).min() < 1.0:
        raise UserError(
            f'config.data.mixture: weight {weights[int(shares.argmin())]} gives less than one '
            f'sample in a batch of {batch_size}: raise it, or batch_size'
        )
    return shares


def permuted(positions: tf.Tensor, key: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Element-wise keyed permutations of range(size).

    The public tf.random.experimental.index_shuffle pads its seed to three numbers, wrongly where
    each index has its own; the operation behind it takes three, and the rounds.

    Args:
      positions: int64 (B,), each in [0, size).
      key: int64 (B, 3).
      sizes: int64 (B,).
    """
    return tf.raw_ops.RandomIndexShuffle(
        index=positions, seed=key, max_index=sizes - 1, rounds=ROUNDS
    )


def batch_indices(
    step: tf.Tensor,
    *,
    seed: int,
    batch_size: int,
    lengths: Sequence[int],
    weights: Sequence[float] = (1.0,),
) -> tf.Tensor:
    """Records of the global batch of a step.

    The samples of a source form an endless stream, one epoch after the other, each a permutation
    of its records keyed by (seed, source, epoch). A batch takes the next ones of each source, in
    proportion to the weights; it may straddle two epochs. So no tail is dropped, and each record of
    a source comes exactly once in every `length` samples of it.

    Args:
      step: int64 scalar, >= 0.
      seed: of the run.
      batch_size: of the global batch.
      lengths: records of each source, >= 1.
      weights: share of each source, any positive scale; each gets one sample a batch at least.

    Returns:
      int64 (batch_size,): index into the sources laid end to end.

    Raises:
      UserError: a weight too small for one sample a batch.
    """
    shares = batch_shares(weights, batch_size)
    # Source s has had floor(c_s x) - floor(c_(s-1) x) samples when x have gone by in all, c being
    # the cumulated shares: whole numbers that add up to x and never run backwards.
    cumulated = np.concatenate([[0.0], np.cumsum(shares)])
    cumulated[-1] = 1.0

    def taken(samples):
        below = tf.cast(tf.floor(cumulated * tf.cast(samples, tf.float64)), tf.int64)
        return below[1:] - below[:-1]

    step = tf.cast(step, tf.int64)
    before = taken(step * batch_size)
    ends = tf.cumsum(taken((step + 1) * batch_size) - before)
    slots = tf.range(batch_size, dtype=tf.int64)
    if len(lengths) > 1:  # so that each host's slice has a part of each source
        key = tf.stack([tf.constant(seed, tf.int64), step, tf.constant(-1, tf.int64)])
        slots = permuted(slots, tf.tile(key[None], [batch_size, 1]), tf.fill([batch_size], tf.constant(batch_size, tf.int64)))  # fmt: skip
    source = tf.searchsorted(ends, slots, side='right')
    starts = tf.concat([tf.zeros([1], tf.int64), ends[:-1]], axis=0)
    positions = tf.gather(before, source) + slots - tf.gather(starts, source)
    sizes = tf.gather(tf.constant(lengths, tf.int64), source)
    key = tf.stack(
        [tf.zeros_like(positions) + seed, positions // sizes, tf.cast(source, tf.int64)], axis=-1
    )
    offsets = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int64)
    return tf.gather(offsets, source) + permuted(positions % sizes, key, sizes)
