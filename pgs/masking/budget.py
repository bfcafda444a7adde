"""A static budget of tokens for a group of images, so that a mask by content saves what it masks.

PGS-0.3 masks 30 to 50 % of an image by its content. Slots for the 70 % that the least masked image
keeps would be padding in most: about two of three photographs are masked to the full 50 %. So the
images of a group run in two buckets of static size, sorted by what they keep: the shorter half
with the slots of a 50 % mask and no padding, the rest with all slots. Where more images than the
budget has room for want many slots, those closest to the full mask get it.

Groups are runs of `group` rows of a batch, the same ones on any number of devices that holds whole
groups; sorting and gathering stay on the device.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Buckets(NamedTuple):
    """Static sizes of the two buckets."""

    group: int  # images that share a budget
    short: int  # of these, images in the bucket without padding
    slots: int  # patches that each of them keeps


def plan(batch: int, group: int, long_share: float, slots: int) -> Buckets | None:
    """The buckets of a batch, None where all images need all slots.

    Args:
      batch: images; where `group` does not divide it, groups are as large as divides both.
      group: images that share a budget.
      long_share: share of a group that gets all slots, rounded up.
      slots: patches that a fully masked image keeps.
    """
    group = math.gcd(batch, group)
    short = group - math.ceil(long_share * group - 1e-9)
    return Buckets(group, short, slots) if short else None


def spend(masked_B: jax.Array, most: int, buckets: Buckets | None) -> jax.Array:
    """Masked counts within the budget: in each group the `short` most masked are masked in full."""
    if buckets is None:
        return masked_B
    masked_GxN = masked_B.reshape(-1, buckets.group)
    order_GxN = jnp.argsort(-masked_GxN, axis=1, stable=True)
    rank_GxN = jnp.argsort(order_GxN, axis=1)
    return jnp.where(rank_GxN < buckets.short, most, masked_GxN).reshape(-1)


class Arrangement(NamedTuple):
    """Which image and which of its patches goes where, within groups of N images."""

    short_ids: jax.Array  # int32 (G, S, slots), patches of the group laid end to end
    long_ids: jax.Array  # int32 (G, N - S, K)
    long_valid: jax.Array  # bool (G, N - S, K)
    inverse: jax.Array  # int32 (G, N): where each image's result is, short ones first


def arrange(keep_ids: jax.Array, valid: jax.Array, length: int, buckets: Buckets) -> Arrangement:
    """Sorts the images of each group into the buckets.

    Args:
      keep_ids: int32 (B, K) positions in [0, length), counts within the budget (`spend`).
      valid: bool (B, K).
      length: patches of an image.
    """
    # Valid slots first, in order: a short image's are then exactly the first ones.
    first_BxK = jnp.argsort(~valid, axis=1, stable=True)
    ids_GxNxK, valid_GxNxK = (
        jnp.take_along_axis(a, first_BxK, axis=1).reshape(-1, buckets.group, a.shape[1])
        for a in (keep_ids, valid)
    )
    order_GxN = jnp.argsort(valid_GxNxK.sum(axis=2), axis=1, stable=True)
    flat_GxNxK = ids_GxNxK + length * jnp.arange(buckets.group)[:, None]

    def rows(values, picked):
        return jnp.take_along_axis(values, picked[:, :, None], axis=1)

    short, long = order_GxN[:, : buckets.short], order_GxN[:, buckets.short :]
    return Arrangement(
        rows(flat_GxNxK, short)[:, :, : buckets.slots],
        rows(flat_GxNxK, long),
        rows(valid_GxNxK, long),
        jnp.argsort(order_GxN, axis=1),
    )


def take(x_BxLxD: jax.Array, ids_GxRxK: jax.Array) -> jax.Array:
    """Patches of each group by their places in it, (G * R, K, D)."""
    groups, rows, kept = ids_GxRxK.shape
    x_GxMxD = x_BxLxD.reshape(groups, -1, x_BxLxD.shape[-1])
    taken = jnp.take_along_axis(x_GxMxD, ids_GxRxK.reshape(groups, -1, 1), axis=1)
    return taken.reshape(groups * rows, kept, -1)
