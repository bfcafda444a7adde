"""A token budget of static size for a group of images, so that a content-dependent mask saves time.

PGS-0.3 masks 30 to 50 % of an image, depending on its content. If every image got slots for the
70 % that the least masked one keeps, most slots would be padding: about two of three photographs
are masked to the full 50 %. Therefore the images of a group are sorted by the number of patches
that they keep and run in two buckets of static size. The short bucket has slots for a 50 % mask and
no padding; the long bucket has all slots. If more images want many slots than the long bucket
holds, those closest to the full mask are masked in full.

A group is a run of `group` consecutive rows of a batch. Groups are the same on any number of
devices that hold whole groups; sorting and gathering stay on the device.

Shapes: B images, L patches, K slots, G groups, N images of a group, S images of a bucket, D width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgs.errors import UserError


class Bucket(NamedTuple):
    """Static size of one bucket of a group."""

    images: int
    slots: int  # patches that each image has room for
    padded: bool  # whether an image may keep fewer


class Buckets(NamedTuple):
    """Static sizes of the buckets of each group, shortest first; their images add up to `group`."""

    group: int  # images that share a budget
    sizes: tuple[Bucket, ...]

    def mean_slots(self) -> float:
        """Slots of an image, mean over a group."""
        return sum(b.images * b.slots for b in self.sizes) / self.group


def check_budget(budget_group: int, long_share: float) -> None:
    """Raises UserError for a group without images, or a share outside [0, 1]."""
    if budget_group < 1:
        raise UserError(f'masking.budget_group={budget_group} must be at least 1 image')
    if not 0.0 <= long_share <= 1.0:
        raise UserError(f'masking.long_share={long_share} must be from 0 to 1; 1 pads every image')


def bucket_sizes(
    batch: int, group: int, long_share: float, *, short_slots: int, long_slots: int
) -> Buckets | None:
    """Sizes of a short and a long bucket for a batch; None where all images get all slots.

    Args:
      batch: number of images; where `group` does not divide it, the group is their greatest
        common divisor.
      group: images that share a budget.
      long_share: share of a group that gets long_slots, rounded up to complete images.
      short_slots: patches that a fully masked image keeps; all images of this bucket are.
      long_slots: patches that the least masked image keeps.
    """
    group = math.gcd(batch, group)
    long = math.ceil(long_share * group - 1e-9)
    if long == group:
        return None
    sizes = (Bucket(group - long, short_slots, False), Bucket(long, long_slots, True))
    return Buckets(group, tuple(size for size in sizes if size.images))


def apply_budget(masked_B: jax.Array, most: int, buckets: Buckets | None) -> jax.Array:
    """Masked counts within the budget: the most masked images of a group, as many as its short
    bucket holds, lose `most` patches.

    Args:
      masked_B: int, masked patches of each image, at most `most`.
      most: masked patches of an image in the short bucket.
      buckets: None leaves the counts as they are.
    """
    if buckets is None:
        return masked_B
    masked_GxN = masked_B.reshape(-1, buckets.group)
    order_GxN = jnp.argsort(-masked_GxN, axis=1, stable=True)
    rank_GxN = jnp.argsort(order_GxN, axis=1)
    return jnp.where(rank_GxN < buckets.sizes[0].images, most, masked_GxN).reshape(-1)


class FilledBucket(NamedTuple):
    """Which images, and which of their patches, are in a bucket of each group."""

    ids_GxSxK: jax.Array  # int32, patch positions within the group's N * L patches
    count_GxS: jax.Array | None  # int32, first slots that are used; None where every slot is


class BucketAssignment(NamedTuple):
    """The images of each group, sorted into its buckets."""

    buckets: tuple[FilledBucket, ...]
    inverse_GxN: jax.Array  # int32, row of each image's result, shortest bucket first


def valid_first(keep_ids: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves the padding of each image to its end, so that a length says what attention may see.

    Args:
      keep_ids: int32 (B, K).
      valid: bool (B, K).

    Returns:
      (keep_ids int32 (B, K), the valid ones first and in their order; int32 (B,), how many they are).
    """
    first_BxK = jnp.argsort(~valid, axis=1, stable=True)
    return jnp.take_along_axis(keep_ids, first_BxK, axis=1), valid.sum(axis=1, dtype=jnp.int32)


def assign_buckets(
    keep_ids: jax.Array, valid: jax.Array, length: int, buckets: Buckets
) -> BucketAssignment:
    """Sorts the images of each group into the buckets, by the number of patches that they keep.

    Args:
      keep_ids: int32 (B, K) positions in [0, length), counts as `apply_budget` gives them.
      valid: bool (B, K).
      length: L, patches of an image.
    """
    # The valid slots of an image that fills its bucket are exactly the first ones.
    first_BxK, count_B = valid_first(keep_ids, valid)
    count_GxN = count_B.reshape(-1, buckets.group)
    order_GxN = jnp.argsort(count_GxN, axis=1, stable=True)
    ids_GxNxK = first_BxK.reshape(*count_GxN.shape, -1)
    flat_GxNxK = ids_GxNxK + length * jnp.arange(buckets.group)[:, None]

    filled, start = [], 0
    for size in buckets.sizes:
        chosen_GxS = order_GxN[:, start : start + size.images]
        start += size.images
        ids_GxSxK = jnp.take_along_axis(flat_GxNxK, chosen_GxS[:, :, None], axis=1)
        count_GxS = jnp.take_along_axis(count_GxN, chosen_GxS, axis=1) if size.padded else None
        filled.append(FilledBucket(ids_GxSxK[:, :, : size.slots], count_GxS))
    return BucketAssignment(tuple(filled), jnp.argsort(order_GxN, axis=1))


def gather_patches(x_BxLxD: jax.Array, ids_GxSxK: jax.Array) -> jax.Array:
    """Patches by their positions within each group: (G * S, K, D)."""
    groups, rows, kept = ids_GxSxK.shape
    x_GxMxD = x_BxLxD.reshape(groups, -1, x_BxLxD.shape[-1])
    taken = jnp.take_along_axis(x_GxMxD, ids_GxSxK.reshape(groups, -1, 1), axis=1)
    return taken.reshape(groups * rows, kept, -1)
