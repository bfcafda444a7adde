"""The samples of a batch: a pure function of (seed, step), without state to save or restore."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pgs.errors import UserError

# Rounds of the cipher that permutes. With TensorFlow's default of 4 and simple keys such as (0, 1),
# half of 100 records stayed in place; with 16 about one did, as in a random permutation.
ROUNDS = 16


def batch_shares(weights: Sequence[float], batch_size: int) -> np.ndarray:
    """The share of each source in a batch, float64, with sum 1.

    Raises:
      UserError: a weight too small for one sample per batch.
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

    Not the public tf.random.experimental.index_shuffle: it pads its seed to three numbers, which
    is wrong if each index has its own seed, and its number of rounds is fixed.

    Args:
      positions: int64 (B,), each in [0, size).
      key: int64 (B, 3); elements with the same key belong to the same permutation.
      sizes: int64 (B,).

    Returns:
      int64 (B,), each in [0, size).
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
    """The records of the global batch of a step.

    The samples of a source form an endless stream of epochs. Each epoch is a permutation of all its
    records, keyed by (seed, epoch, source). A batch takes the next samples of each source, in
    proportion to the weights, and may span two epochs. So no sample is dropped, and each record of a
    source occurs exactly once in each epoch.

    Args:
      step: int64 scalar, >= 0.
      seed: of the run.
      batch_size: B, of the global batch.
      lengths: records of each source, >= 1.
      weights: share of each source, on any positive scale; at least one sample per batch.

    Returns:
      int64 (B,): indices into the concatenated sources.

    Raises:
      UserError: a weight too small for one sample per batch.
    """
    shares = batch_shares(weights, batch_size)
    # Of the first x samples, floor(c_s x) - floor(c_(s-1) x) come from source s, where c are the
    # cumulative shares. These numbers are integers with sum x that never decrease with x.
    cumulated = np.concatenate([[0.0], np.cumsum(shares)])
    cumulated[-1] = 1.0

    def taken(samples):
        below = tf.cast(tf.floor(cumulated * tf.cast(samples, tf.float64)), tf.int64)
        return below[1:] - below[:-1]

    step = tf.cast(step, tf.int64)
    before = taken(step * batch_size)
    ends = tf.cumsum(taken((step + 1) * batch_size) - before)
    slots = tf.range(batch_size, dtype=tf.int64)
    if len(lengths) > 1:  # spreads each source over the slices of all hosts
        key = tf.stack([tf.constant(seed, tf.int64), step, tf.constant(-1, tf.int64)])
        keys = tf.tile(key[None], [batch_size, 1])
        slots = permuted(slots, keys, tf.fill([batch_size], tf.constant(batch_size, tf.int64)))
    source = tf.searchsorted(ends, slots, side='right')
    starts = tf.concat([tf.zeros([1], tf.int64), ends[:-1]], axis=0)
    positions = tf.gather(before, source) + slots - tf.gather(starts, source)
    sizes = tf.gather(tf.constant(lengths, tf.int64), source)
    key = tf.stack(
        [tf.zeros_like(positions) + seed, positions // sizes, tf.cast(source, tf.int64)], axis=-1
    )
    offsets = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int64)
    return tf.gather(offsets, source) + permuted(positions % sizes, key, sizes)
