"""Position embeddings of an image's patches, resampled for another number of patches.

Shapes: L patches of an image, row by row, D width.
"""

import jax
import numpy as np
from einops import rearrange


def resample_grid(positions_LxD: jax.Array | np.ndarray, side: int) -> jax.Array:
    """Resamples the positions of a square grid to (side * side, D).

    As OpenCLIP's resize_pos_embed: bicubic (Keys' kernel with a = -0.5), antialiased, with pixel
    centres at halves.
    """
    old = round(positions_LxD.shape[0] ** 0.5)
    square = rearrange(positions_LxD, '(h w) d -> h w d', h=old)
    resized = jax.image.resize(
        square, (side, side, square.shape[-1]), 'bicubic', precision=jax.lax.Precision.HIGHEST
    )
    return rearrange(resized, 'h w d -> (h w) d')
