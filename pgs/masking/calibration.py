"""The threshold of the strategy `cluster` for a mean masked fraction, found before training.

Shapes: N images, L patches of an image, A anchors.
"""

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.cluster import anchor_similarity
from pgs.masking.selection import masked_counts

HALVINGS = 20


def mean_masked(
    similarity_NxLxL: jax.Array,
    anchors_NxA: jax.Array,
    threshold: jax.Array | float,
    min_ratio: float,
) -> float:
    """Mean masked fraction of images at a threshold: f(t) = mean of max(count(t), ceil(r L)) / L.

    Args:
      similarity_NxLxL: cosines, as `patch_similarity` gives them.
      anchors_NxA: int, positions of the anchors.
      threshold: cosine, t.
      min_ratio: smallest masked fraction of an image, r.

    Returns:
      A fraction in [0, 1] that falls, or stays, as the threshold rises.
    """
    nearest_NxL = anchor_similarity(similarity_NxLxL, anchors_NxA)
    length = nearest_NxL.shape[1]
    fewest, _ = masked_counts(length, min_ratio, min_ratio)
    return float(masked_fraction(nearest_NxL, threshold, fewest))


@jax.jit
def masked_fraction(nearest_NxL: jax.Array, threshold: jax.Array, fewest: int) -> jax.Array:
    """`mean_masked`, from the similarity of each patch to its nearest anchor."""
    count_N = jnp.maximum((nearest_NxL > threshold).sum(axis=1), fewest)
    return count_N.mean() / nearest_NxL.shape[1]


def calibrated_threshold(
    similarity_NxLxL: jax.Array,
    anchors_NxA: jax.Array,
    target_ratio: float,
    min_ratio: float,
) -> float:
    """The threshold in [0, 1] at which images are masked to `target_ratio` on average.

    Bisection: 20 halvings of [0, 1]. Of the last interval's two ends, the one whose mean masked
    fraction is closer to the target is returned. The mean changes in steps, so that it may miss
    the target by one step.

    Args:
      similarity_NxLxL: cosines of a few batches, as `patch_similarity` gives them.
      anchors_NxA: int, positions of the anchors.
      target_ratio: mean masked fraction, above min_ratio and below 1.
      min_ratio: smallest masked fraction of an image, in [0, 1).

    Raises:
      UserError: a target at or below min_ratio, at or above 1, or one that no threshold in [0, 1]
        reaches on these images.
    """
    nearest_NxL = anchor_similarity(similarity_NxLxL, anchors_NxA)
    length = nearest_NxL.shape[1]
    fewest, _ = masked_counts(length, min_ratio, min_ratio)
    lowest = fewest / length
    if not max(min_ratio, lowest) < target_ratio < 1.0:
        raise UserError(
            f'a target masked fraction of {target_ratio} must be above '
            f'masking.min_ratio={min_ratio} ({fewest} of {length} patches) and below 1'
        )

    low, high = 0.0, 1.0
    at_low, at_high = (float(masked_fraction(nearest_NxL, t, fewest)) for t in (low, high))
    if not at_high <= target_ratio <= at_low:
        raise UserError(
            f'no masking.cluster_threshold from 0 to 1 masks a mean fraction of {target_ratio}: '
            f'on these {len(nearest_NxL)} images the mean is {at_high:.3f} to {at_low:.3f}'
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        at_middle = float(masked_fraction(nearest_NxL, middle, fewest))
        if at_middle > target_ratio:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low if at_low - target_ratio < target_ratio - at_high else high
