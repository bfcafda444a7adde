"""Edge score of every patch: Sobel magnitude of the full-resolution luma (docs/masking.md, step 1).

Shapes: B images of H x W pixels, L patches of an image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from pgs.layout import LANES, planar

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601

# A flat image leaves rounding noise of a few float32 ulps of its brightness. Scaled to [0, 1], this
# noise would look like edges. One grey level in one pixel of a patch is two orders above the floor.
RELATIVE_FLOOR = 2e-6


def luma(images_BxHxWx3: jax.Array) -> jax.Array:
    """Luma in the pixels' own scale: (B, H, W), float32 or wider."""
    wide = jnp.promote_types(images_BxHxWx3.dtype, jnp.float32)
    red, green, blue = (
        images_BxHxWx3[..., channel].astype(wide) * jnp.asarray(weight, wide)
        for channel, weight in enumerate(LUMA_WEIGHTS)
    )
    return red + green + blue


def sobel_gradients(luma_BxHxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sobel gradients along x and y, border replicated (scipy.ndimage.sobel, mode 'nearest').

    A TPU computes them as a convolution, other platforms by shifts: each is several times as fast
    there (docs/performance.md). Both are exact up to the rounding of their sums.

    Returns:
      two arrays (B, H, W) in luma units per kernel (its weights sum to 8).
    """
    return jax.lax.platform_dependent(
        luma_BxHxW, tpu=gradients_by_convolution, default=gradients_by_shifts
    )


def gradients_by_shifts(luma_BxHxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each kernel as a smoothing (1, 2, 1) along one axis and a difference along the other."""
    padded = jnp.pad(luma_BxHxW, ((0, 0), (1, 1), (1, 1)), mode='edge')
    down = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
    across = padded[:, :, :-2] + 2.0 * padded[:, :, 1:-1] + padded[:, :, 2:]
    gradient_x = down[:, :, 2:] - down[:, :, :-2]
    return gradient_x, across[:, 2:] - across[:, :-2]


def gradients_by_convolution(luma_BxHxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both kernels as one convolution over the rows, with the pixels of a row as its channels.

    The products with a row's neighbours are then a band matrix, which fills a TPU's matrix unit; a
    convolution with one channel would use one of its 128 columns.
    """
    width = luma_BxHxW.shape[2]
    padded = jnp.pad(luma_BxHxW, ((0, 0), (1, 1), (0, 0)), mode='edge')
    kernels = row_kernels(width)
    gradients_BxHx2N = jax.lax.conv_general_dilated(
        padded,
        jnp.asarray(kernels, padded.dtype),
        window_strides=(1,),
        padding='VALID',
        dimension_numbers=('NWC', 'WIO', 'NWC'),
        # The kernel's whole numbers are exact in bfloat16: three passes give what six would.
        precision=(jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT),
    )
    second = kernels.shape[2] // 2
    return gradients_BxHx2N[..., :width], gradients_BxHx2N[..., second : second + width]


def row_kernels(width: int) -> np.ndarray:
    """Weights of the row above, the row itself and the row below: (3, width, 2 * N).

    The first `width` of N results are the gradient along x, those of the second half along y. N is
    the next multiple of LANES, so that both halves begin at the first lane of a register.
    """
    centre = np.eye(width)
    left, right = (np.eye(width, k=k) for k in (1, -1))
    left[0, 0] = right[-1, -1] = 1.0  # replicates the border
    smooth, difference = left + 2.0 * centre + right, right - left
    rows = [(1, -1), (2, 0), (1, 1)]  # weights of the kernels along y: smoothing, difference
    rest = np.zeros((width, -width % LANES))
    halves = [(x * difference, rest, y * smooth, rest) for x, y in rows]
    return np.stack([np.concatenate(parts, axis=1) for parts in halves])


def sobel_magnitude(images_BxHxWx3: jax.Array) -> jax.Array:
    """Gradient magnitude of the luma.

    Args:
      images_BxHxWx3: any float dtype and any pixel scale; computed in float32 or wider.

    Returns:
      (B, H, W), >= 0, in luma units per Sobel kernel.
    """
    gradient_x, gradient_y = sobel_gradients(luma(images_BxHxWx3))
    return jnp.sqrt(jnp.square(gradient_x) + jnp.square(gradient_y))


def edge_scores(images_BxHxWx3: jax.Array, patch_size: int) -> jax.Array:
    """Mean Sobel magnitude of each patch, min-max scaled per image: E of the method.

    Args:
      images_BxHxWx3: float images; patch_size divides H and W.
      patch_size: side of a patch in pixels.

    Returns:
      float32 or wider (B, L) in [0, 1], patches in row-major order; all 0 for a flat image.
    """
    images_BxHxWx3 = planar(images_BxHxWx3)
    magnitude = sobel_magnitude(images_BxHxWx3)
    return scaled_patch_means(magnitude, patch_size, noise_floor(images_BxHxWx3)[:, None])


def noise_floor(images_BxHxWx3: jax.Array) -> jax.Array:
    """Differences of luma up to this value are rounding noise: (B,), >= 0, float32 or wider."""
    wide = jnp.promote_types(images_BxHxWx3.dtype, jnp.float32)
    return RELATIVE_FLOOR * jnp.abs(images_BxHxWx3).astype(wide).max(axis=(1, 2, 3))


def scaled_patch_means(
    map_BxHxW: jax.Array, patch_size: int, floor_Bx1: jax.Array | float
) -> jax.Array:
    """Mean of each patch, min-max scaled per image to [0, 1]: (B, L), row-major.

    Args:
      map_BxHxW: float; patch_size divides H and W.
      patch_size: side of a patch in pixels.
      floor_Bx1: an image whose means differ by no more than this is all 0.
    """
    p = patch_size
    means_BxRxC = jax.lax.platform_dependent(
        map_BxHxW,
        tpu=lambda x: means_by_product(x, p),
        default=lambda x: reduce(x, 'b (h p) (w q) -> b h w', 'mean', p=p, q=p),
    )
    return min_max_scaled(rearrange(means_BxRxC, 'b h w -> b (h w)'), floor_Bx1)


def means_by_product(map_BxHxW: jax.Array, patch_size: int) -> jax.Array:
    """Mean of each patch, (B, H / patch_size, W / patch_size): sums of rows, then a product.

    A TPU adds up along the lanes of a register slowly. The weights 0 and 1 are exact in bfloat16,
    so that three passes of the matrix unit give what six would.
    """
    p = patch_size
    rows = rearrange(map_BxHxW, 'b (h p) w -> p b h w', p=p)
    sums_BxRxW = sum(rows[i] for i in range(p))
    blocks_WxC = np.repeat(np.eye(map_BxHxW.shape[2] // p), p, axis=0)
    sums_BxRxC = jax.lax.dot_general(
        sums_BxRxW,
        jnp.asarray(blocks_WxC, map_BxHxW.dtype),
        (((2,), (0,)), ((), ())),
        precision=(jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT),
    )
    return sums_BxRxC / p**2


def min_max_scaled(scores_BxL: jax.Array, floor_Bx1: jax.Array | float) -> jax.Array:
    """Each image's scores scaled to [0, 1]; all 0 where they differ by no more than the floor."""
    low = scores_BxL.min(axis=-1, keepdims=True)
    spread = scores_BxL.max(axis=-1, keepdims=True) - low
    real = spread > floor_Bx1
    return jnp.where(real, (scores_BxL - low) / jnp.where(real, spread, 1.0), 0.0)
