"""What a strategy returns, and the pieces that strategies are made of.

Shapes: B images, L patches of an image, K patches that are kept.
"""

import math
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.masking.budget import Buckets


@flax.struct.dataclass
class PatchSelection:
    """The patches that stay visible, and what the train step has to know about them.

    Attributes:
      keep_ids: int32 (B, K), ascending positions in [0, L).
      valid: bool (B, K), False for a slot that is padding because its image keeps fewer than K
        patches; None where every slot of every image is used, so that attention needs no mask.
      buckets: static; sizes of the token budget's buckets that `valid` fits into (budget.py).
        None where each image has K slots.
      most_masked: static; the largest number of patches that an image can lose. None where it
        is L - K, the smallest one.
    """

    keep_ids: jax.Array
    valid: jax.Array | None = None
    buckets: Buckets | None = flax.struct.field(pytree_node=False, default=None)
    most_masked: int | None = flax.struct.field(pytree_node=False, default=None)

    def mean_slots(self) -> float:
        """Patches of an image that the image tower computes on, padding included, mean."""
        kept = self.keep_ids.shape[1]
        return float(kept) if self.buckets is None else self.buckets.mean_slots()

    def masked_range(self, num_patches: int) -> tuple[int, int]:
        """Smallest and largest number of masked patches of an image."""
        fewest = num_patches - self.keep_ids.shape[1]
        return fewest, fewest if self.most_masked is None else self.most_masked


def mask_ratio(selection: PatchSelection, num_patches: int) -> jax.Array:
    """Masked fraction of each image, float32 (B,) in [0, 1)."""
    batch, kept = selection.keep_ids.shape
    if selection.valid is None:
        return jnp.full((batch,), 1.0 - kept / num_patches)
    return 1.0 - selection.valid.sum(axis=1) / num_patches


def visible(selection: PatchSelection, num_patches: int) -> jax.Array:
    """Which patches a selection keeps: bool (B, L)."""
    batch, kept = selection.keep_ids.shape
    valid = jnp.ones((batch, kept), bool) if selection.valid is None else selection.valid
    rows = jnp.arange(batch)[:, None]
    return jnp.zeros((batch, num_patches), bool).at[rows, selection.keep_ids].set(valid)


def visible_patches(selection: PatchSelection, num_patches: int) -> np.ndarray:
    """`visible` as numpy, for figures and scores: bool (B, L)."""
    return np.asarray(visible(selection, num_patches))


def draw(sample: Callable, rng: jax.Array, batch: int, length: int) -> jax.Array:
    """Random numbers for each image that depend only on its own key: float32 (batch, length).

    Args:
      sample: such as jax.random.uniform.
      rng: one key for each image (batch,), or a single key, which is split.
    """
    keys_B = rng if rng.ndim else jax.random.split(rng, batch)
    return jax.vmap(lambda key: sample(key, (length,), jnp.float32))(keys_B)


def check_ratio(name: str, value: float) -> None:
    """Raises UserError for an option that is not a fraction in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise UserError(f'masking.{name}={value} is not a fraction of the patches: give 0 <= x < 1')


def masked_counts(num_patches: int, min_ratio: float, max_ratio: float) -> tuple[int, int]:
    """Smallest and largest number of masked patches: ceil(r_min * L) and floor(r_max * L).

    Where no whole number of patches lies between the ratios, the next one above r_min is taken.

    Raises:
      UserError: a ratio outside [0, 1), r_min above r_max, or no patch left.
    """
    check_ratio('min_ratio', min_ratio)
    check_ratio('max_ratio', max_ratio)
    if min_ratio > max_ratio:
        raise UserError(
            f'masking.min_ratio={min_ratio} is above masking.max_ratio={max_ratio}: '
            'lower the first or raise the second'
        )
    slack = 1e-9 * num_patches  # 0.07 * 100 is 7.000000000000001 in floating point
    fewest = math.ceil(min_ratio * num_patches - slack)
    if fewest >= num_patches:
        raise UserError(
            f'masking.min_ratio={min_ratio} leaves none of {num_patches} patches: lower it'
        )
    return fewest, max(fewest, math.floor(max_ratio * num_patches + slack))


def select_ranked(
    order_BxL: jax.Array,
    count_B: jax.Array,
    fewest: int,
    most: int,
    buckets: Buckets | None = None,
) -> PatchSelection:
    """Turns an order of masking into a selection of static shape.

    Args:
      order_BxL: int, patch positions; the first ones are masked first.
      count_B: int, masked patches of each image, in [fewest, most].
      fewest, most: bounds of count_B; K = L - fewest slots are kept.
      buckets: of the token budget that count_B keeps, if any.
    """
    rank_BxL = jnp.argsort(order_BxL, axis=-1)
    keep_BxK = jnp.sort(order_BxL[:, fewest:], axis=-1).astype(jnp.int32)
    if fewest == most:
        return PatchSelection(keep_BxK)
    valid_BxK = jnp.take_along_axis(rank_BxL, keep_BxK, axis=-1) >= count_B[:, None]
    return PatchSelection(keep_BxK, valid_BxK, buckets, most)
