"""Resamples the position embeddings of an image tower for another image size.

Shapes: T tokens of an image (the class token, then its patches row by row), D width.
"""

from typing import Any

import jax
import numpy as np

from pgs.errors import UserError
from pgs.models.positions import resample_grid


def resize_positions(positions_TxD: np.ndarray, grid: int) -> np.ndarray:
    """Resamples the patch positions (pgs/models/positions.py) and keeps the class token's.

    Args:
      positions_TxD: float32 (1 + n * n, D), the class token's first.
      grid: new number of patches along a side.

    Returns:
      float32 (1 + grid * grid, D); positions_TxD itself if the grid does not change.

    Raises:
      UserError: positions that do not form a square grid.
    """
    count = positions_TxD.shape[0] - 1
    old = round(count**0.5)
    if old * old != count:
        raise UserError(f'{count} patch positions are not a square grid and cannot be resampled')
    if old == grid:
        return positions_TxD
    return np.concatenate([positions_TxD[:1], np.asarray(resample_grid(positions_TxD[1:], grid))])


def resize_image(
    params: dict[str, Any], architecture: dict[str, Any], image_size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and architecture for another image size.

    Args:
      params: tree of CLIP, numpy.
      architecture: a mapping like config.model.
      image_size: pixels; a multiple of the patch size.

    Returns:
      (params, architecture), new dicts; the arrays are shared, except the positions.

    Raises:
      UserError: an image size that is not a multiple of the patch size.
    """
    patch = architecture['image']['patch_size']
    if image_size < patch or image_size % patch:
        lower = max(image_size // patch, 1) * patch
        raise UserError(
            f'image_size={image_size} is not a multiple of patch size {patch}: '
            f'take {lower} or {lower + patch}'
        )
    params = jax.tree.map(lambda x: x, params)  # copies the dicts, not the arrays
    tower = params['image_tower']
    tower['positions'] = resize_positions(tower['positions'], image_size // patch)
    return params, architecture | {'image': architecture['image'] | {'image_size': image_size}}
