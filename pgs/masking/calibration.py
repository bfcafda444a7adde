"""Options of a strategy that are set before training, from training images.

Shapes: B images of a call, N images in all, L patches of an image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.selection import masked_counts

HALVINGS = 20


class Calibration(NamedTuple):
    """What the function `calibrate` of a strategy's file returns (strategies.py).

    Attributes:
      options: names of the options of config.masking that are set.
      goal: what they are set for, a few words for the console.
      measure: (rng (B,), images float (B, H, W, 3)) -> array with B rows; is jitted.
      solve: the rows of all N images -> {option: value}.
    """

    options: tuple[str, ...]
    goal: str
    measure: Callable[[jax.Array, jax.Array], jax.Array]
    solve: Callable[[Any], dict[str, float]]


def mean_masked(nearest_NxL: jax.Array, threshold: jax.Array | float, min_ratio: float) -> float:
    """Mean masked fraction of images at a threshold: f(t) = mean of max(count(t), ceil(r L)) / L.

    Args:
      nearest_NxL: cosine of each patch to the anchor that it resembles most.
      threshold: cosine, t.
      min_ratio: smallest masked fraction of an image, r.

    Returns:
      A fraction in [0, 1] that falls, or stays, as the threshold rises.
    """
    fewest, _ = masked_counts(nearest_NxL.shape[1], min_ratio, min_ratio)
    return float(masked_fraction(nearest_NxL, threshold, fewest))


@jax.jit
def masked_fraction(nearest_NxL: jax.Array, threshold: jax.Array, fewest: int) -> jax.Array:
    """`mean_masked`, with the smallest number of masked patches of an image."""
    count_N = jnp.maximum((nearest_NxL > threshold).sum(axis=1), fewest)
    return count_N.mean() / nearest_NxL.shape[1]


def check_target(target_ratio: float, min_ratio: float, num_patches: int) -> int:
    """Checks a mean masked fraction.

    Returns:
      The smallest number of masked patches of an image.

    Raises:
      UserError: a target at or below min_ratio, or at or above 1.
    """
    fewest, _ = masked_counts(num_patches, min_ratio, min_ratio)
    if not max(min_ratio, fewest / num_patches) < target_ratio < 1.0:
        raise UserError(
            f'masking.cluster_target={target_ratio}, a mean masked fraction, must be above '
            f'masking.min_ratio={min_ratio} ({fewest} of {num_patches} patches) and below 1'
        )
    return fewest


def calibrated_threshold(nearest_NxL: jax.Array, target_ratio: float, min_ratio: float) -> float:
    """The threshold in [0, 1] at which images are masked to `target_ratio` on average.

    Bisection: 20 halvings of [0, 1]. Of the last interval's two ends, the one whose mean masked
    fraction is closer to the target is returned. The mean changes in steps, so that it may miss
    the target by one step.

    Args:
      nearest_NxL: cosine of each patch to the anchor that it resembles most.
      target_ratio: mean masked fraction, above min_ratio and below 1.
      min_ratio: smallest masked fraction of an image, in [0, 1).

    Raises:
      UserError: as `check_target`; a target that no threshold in [0, 1] reaches on these images.
    """
    fewest = check_target(target_ratio, min_ratio, nearest_NxL.shape[1])
    low, high = 0.0, 1.0
    at_low, at_high = (float(masked_fraction(nearest_NxL, t, fewest)) for t in (low, high))
    if not at_high <= target_ratio <= at_low:
        raise UserError(
            f'no masking.cluster_threshold from 0 to 1 masks a mean fraction of {target_ratio} '
            f'(masking.cluster_target): on these {len(nearest_NxL)} images the mean is '
            f'{at_high:.3f} to {at_low:.3f}'
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        at_middle = float(masked_fraction(nearest_NxL, middle, fewest))
        if at_middle > target_ratio:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low if at_low - target_ratio < target_ratio - at_high else high
