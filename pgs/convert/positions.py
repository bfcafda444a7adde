"""Position embeddings of an image tower for another image size."""

import jax
import numpy as np
from einops import rearrange

from pgs.errors import UserError


def resize_positions(positions_TxD: np.ndarray, grid: int) -> np.ndarray:
    """Resamples the grid of patch positions; the class token's stays.

    Args:
      positions_TxD: float32 (1 + n * n, D), the class token's first.
      grid: patches along a side from now on.

    Returns:
      float32 (1 + grid * grid, D); the very array where the grid stays as it is.

    Raises:
      UserError: positions that are no square grid.
    """
    count = positions_TxD.shape[0] - 1
    old = round(count**0.5)
    if old * old != count:
        raise UserError(f'{count} patch positions are no square grid, and cannot be resampled')
    if old == grid:
        return positions_TxD
    square = rearrange(positions_TxD[1:], '(h w) d -> h w d', h=old)
    # Keys' kernel with a = -0.5 and pixel centres at halves, as PyTorch's antialiased bicubic.
    square = jax.image.resize(
        square, (grid, grid, square.shape[-1]), 'bicubic', precision=jax.lax.Precision.HIGHEST
    )
    return np.concatenate([positions_TxD[:1], rearrange(np.asarray(square), 'h w d -> (h w) d')])


def resize_image(params: dict, described: dict, image_size: int) -> tuple[dict, dict]:
    """Parameters and config.model for another image size.

    Args:
      params: tree of CLIP, numpy.
      described: its config.model.
      image_size: pixels; a multiple of the patch size.

    Returns:
      (params, described), new dicts; all arrays but the positions are the same ones.

    Raises:
      UserError: an image size that the patch size does not divide.
    """
    patch = described['image']['patch_size']
    if image_size < patch or image_size % patch:
        lower = max(image_size // patch, 1) * patch
        raise UserError(
            f'image_size={image_size} is no multiple of patch size {patch}: '
            f'take {lower} or {lower + patch}'
        )
    params = jax.tree.map(lambda x: x, params)  # copies the dicts, not the arrays
    tower = params['image_tower']
    tower['positions'] = resize_positions(tower['positions'], image_size // patch)
    return params, described | {'image': described['image'] | {'image_size': image_size}}
