"""The strategy `attentive`: the mask of A-CLIP.

docs/masking.md explains it. Shapes: B images, L patches, S patches that the scorer sees, C cells,
P patches of a cell.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pgs.masking.attention import DEFAULT_DECAY, DEFAULT_SCALE
from pgs.masking.selection import PatchSelection, check_ratio, select_ranked


def attentive(
    rng,
    images,
    patch_embeddings,
    progress,
    *,
    patch_size: int,
    attention: jax.Array,
    mask_ratio: float = 0.5,
    attention_scale: float = DEFAULT_SCALE,
    ema_decay: float = DEFAULT_DECAY,
) -> PatchSelection:
    """Keeps the cells that the class token of an EMA tower attends to most (Yang et al., ICCV 2023).

    A cell is a square of 2 x 2 patches, or a single patch where the number of patches along a side is odd.
    int((1 - mask_ratio) * C) + 1 cells stay, at most all of them. Nothing is drawn at random.

    Args:
      attention: float32 (B, S), see attention.py; a map of all patches is averaged over each cell.
      mask_ratio: largest masked fraction of an image, in [0, 1).
      attention_scale, ema_decay: of the scorer, see attention.py.
      The others: as for every strategy, see strategies.py.

    Raises:
      UserError: mask_ratio outside [0, 1).
    """
    del rng, images, progress, patch_size, attention_scale, ema_decay
    check_ratio('mask_ratio', mask_ratio)
    cells_CxP = cell_patches(patch_embeddings.shape[1])
    cells, patches_of_cell = cells_CxP.shape
    score_BxC = jax.lax.stop_gradient(attention)
    if score_BxC.shape[1] != cells:
        score_BxC = score_BxC[:, cells_CxP].mean(axis=-1)
    masked = cells - kept_cells(cells, mask_ratio)
    order_BxC = jnp.argsort(score_BxC, axis=-1)  # the least attended cells are masked first
    order_BxL = jnp.asarray(cells_CxP)[order_BxC].reshape(score_BxC.shape[0], -1)
    count = masked * patches_of_cell
    return select_ranked(order_BxL, jnp.full(order_BxL.shape[:1], count), count, count)


def kept_cells(cells: int, mask_ratio: float) -> int:
    """Cells that stay visible: the next whole number above (1 - mask_ratio) * cells, at most all."""
    return min(int((1.0 - mask_ratio) * cells + 1e-9) + 1, cells)


def cell_patches(num_patches: int) -> np.ndarray:
    """The patches of each cell, int (C, P): P is 4, or 1 on a grid with an odd side."""
    side = math.isqrt(num_patches)
    grid = np.arange(num_patches).reshape(side, side)
    if side % 2:
        return grid.reshape(-1, 1)
    return grid.reshape(side // 2, 2, side // 2, 2).swapaxes(1, 2).reshape(-1, 4)
