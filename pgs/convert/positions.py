"""Position embeddings of an image tower for another image size."""

import jax
import numpy as np
from einops import rearrange

from pgs.errors import UserError


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, the one of antialiased bicubic resizing in PyTorch and Pillow."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(source: int, target: int) -> np.ndarray:
    """Weights float64 (target, source) of antialiased bicubic resizing along one axis.

    Pixel centres lie at halves (align_corners false); the kernel is as wide as the larger pixel,
    is cut off at the border, and what is left of it sums to 1.
    """
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale
    offsets = np.arange(source) + 0.5 - centres[:, None]
    weights = cubic(offsets / max(scale, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


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
    matrix = resize_matrix(old, grid)
    square = rearrange(positions_TxD[1:].astype(np.float64), '(h w) d -> h w d', h=old)
    square = np.einsum('ih,jw,hwd->ijd', matrix, matrix, square, optimize=True)
    rows = rearrange(square, 'h w d -> (h w) d').astype(np.float32)
    return np.concatenate([positions_TxD[:1], rows])


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
