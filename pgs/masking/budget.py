"""A token budget of static size for a group of images, so that a content-dependent mask saves time.

PGS-0.3 masks 30 to 50 % of an image, depending on its content. If every image got slots for the
70 % that the least masked one keeps, most slots would be padding: about two of three photographs
are masked to the full 50 %. Therefore the images of a group are sorted by the number of patches
that they keep and run in two buckets of static size. The short bucket has slots for a 50 % mask and
no padding; the long bucket has all slots. If more images want many slots than the long bucket
holds, those closest to the full mask are masked in full.

A group is a run of `group` consecutive rows of a batch. Groups are the same on any number of
devices that hold whole groups; sorting and gathering stay on the device.

Shapes: B images, L patches, K slots of the long bucket, G groups, N images of a group, S images in
its short bucket, R rows of a bucket, D width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgs.errors import UserError


class Buckets(NamedTuple):
    """Static sizes of the two buckets."""

    group: int  # images that share a budget
    short: int  # images of a group in the short bucket
    slots: int  # patches that each image of the short bucket keeps


def check_budget(budget_group: int, long_share: float) -> None:
    """Raises UserError for a group without images, or a share outside [0, 1]."""
    if budget_group < 1:
        raise UserError(f'masking.budget_group={budget_group} must be at least 1 image')
    if not 0.0 <= long_share <= 1.0:
        raise UserError(f'masking.long_share={long_share} must be from 0 to 1; 1 pads every image')


def bucket_sizes(batch: int, group: int, long_share: float, slots: int) -> Buckets | None:
    """Sizes of the buckets for a batch; None where all images get all slots.

    Args:
      batch: number of images; where `group` does not divide it, the group is their greatest
        common divisor.
      group: images that share a budget.
      long_share: share of a group that gets all slots, rounded up to whole images.
      slots: patches that a fully masked image keeps.
    """
    group = math.gcd(batch, group)
    short = group - math.ceil(long_share * group - 1e-9)
    return Buckets(group, short, slots) if short else None


def apply_budget(masked_B: jax.Array, most: int, buckets: Buckets | None) -> jax.Array:
    """Masked counts within the budget: the `short` most masked images of a group lose `most`.

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
    return jnp.where(rank_GxN < buckets.short, most, masked_GxN).reshape(-1)


class BucketAssignment(NamedTuple):
    """Which image, and which of its patches, goes into which bucket."""

    short_ids: jax.Array  # int32 (G, S, slots), patch positions within the group's N * L patches
    long_ids: jax.Array  # int32 (G, N - S, K)
    long_valid: jax.Array  # bool (G, N - S, K)
    inverse: jax.Array  # int32 (G, N): row of each image's result, short bucket first


def assign_buckets(
    keep_ids: jax.Array, valid: jax.Array, length: int, buckets: Buckets
) -> BucketAssignment:
    """Sorts the images of each group into the two buckets.

    Args:
      keep_ids: int32 (B, K) positions in [0, length), counts as `apply_budget` gives them.
      valid: bool (B, K).
      length: L, patches of an image.
    """
    # Valid slots first, in order: those of a short image are then exactly the first ones.
    first_BxK = jnp.argsort(~valid, axis=1, stable=True)
    ids_GxNxK, valid_GxNxK = (
        jnp.take_along_axis(a, first_BxK, axis=1).reshape(-1, buckets.group, a.shape[1])
        for a in (keep_ids, valid)
    )
    order_GxN = jnp.argsort(valid_GxNxK.sum(axis=2), axis=1, stable=True)
    flat_GxNxK = ids_GxNxK + length * jnp.arange(buckets.group)[:, None]

    def rows(values, chosen):
        return jnp.take_along_axis(values, chosen[:, :, None], axis=1)

    short, long = order_GxN[:, : buckets.short], order_GxN[:, buckets.short :]
    return BucketAssignment(
        rows(flat_GxNxK, short)[:, :, : buckets.slots],
        rows(flat_GxNxK, long),
        rows(valid_GxNxK, long),
        jnp.argsort(order_GxN, axis=1),
    )


def gather_patches(x_BxLxD: jax.Array, ids_GxRxK: jax.Array) -> jax.Array:
    """Patches by their positions within each group: (G * R, K, D)."""
    groups, rows, kept = ids_GxRxK.shape
    x_GxMxD = x_BxLxD.reshape(groups, -1, x_BxLxD.shape[-1])
    taken = jnp.take_along_axis(x_GxMxD, ids_GxRxK.reshape(groups, -1, 1), axis=1)
    return taken.reshape(groups * rows, kept, -1)
