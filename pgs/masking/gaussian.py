"""The strategy `gaussian`: GLIP, centered masking."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.masking.selection import PatchSelection, check_ratio, draw, select_ranked


def gaussian(
    rng,
    images,
    patch_embeddings,
    progress,
    *,
    patch_size: int,
    mask_ratio: float = 0.5,
    covariance: float = 0.2,
) -> PatchSelection:
    """Masks round(mask_ratio * L) patches at random, the border more often (GLIP, arXiv 2403.15837).

    The L - round(mask_ratio * L) patches with the largest U - (1 - pdf) stay. U is uniform in
    [0, 1], pdf is `center_density`.

    Args:
      mask_ratio: masked fraction of each image, in [0, 1); at least one patch stays.
      covariance: of the Gaussian along each axis, > 0, for an image whose sides reach from -1 to 1;
        a large value masks all places alike.
      The others: as for every strategy, see strategies.py.

    Raises:
      UserError: mask_ratio outside [0, 1), or a covariance that is not above 0.
    """
    del progress
    check_ratio('mask_ratio', mask_ratio)
    if covariance <= 0.0:
        raise UserError(f'masking.covariance={covariance} must be above 0; the default is 0.2')
    batch, length, _ = patch_embeddings.shape
    _, height, width, _ = images.shape
    density_L = center_density(height // patch_size, width // patch_size, covariance)
    score_BxL = draw(jax.random.uniform, rng, batch, length) - (1.0 - density_L)
    masked = min(round(mask_ratio * length), length - 1)
    order_BxL = jnp.argsort(score_BxL, axis=-1)
    return select_ranked(order_BxL, jnp.full((batch,), masked), masked, masked)


def center_density(rows: int, columns: int, covariance: float) -> np.ndarray:
    """Density of a two-dimensional Gaussian at each patch: float32 (L,), row-major.

    The first patch of an axis is at -1, the last one at 1. The density is normalised so that its
    integral is 1, as in the published code; at a covariance of 0.2 its peak is 0.8.
    """
    y, x = np.linspace(-1, 1, rows), np.linspace(-1, 1, columns)
    squared_distance = np.square(y)[:, None] + np.square(x)[None, :]
    density = np.exp(-squared_distance / (2 * covariance)) / (2 * math.pi * covariance)
    return density.ravel().astype(np.float32)
