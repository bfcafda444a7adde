"""Edge score of every patch by Canny's detector, the alternative of the paper's ablation to Sobel.

Canny, A Computational Approach to Edge Detection, 1986; the steps and borders of
skimage.feature.canny. Shapes: B images of H x W pixels, L patches of an image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pgs.masking.edges import luma, noise_floor, scaled_patch_means, sobel_gradients

SIGMA = 1.0  # pixels, of the Gaussian that smooths the luma
RADIUS = 4  # pixels, where the Gaussian is cut off
# Of the Sobel magnitude, for luma in [0, 1]: the defaults of skimage.feature.canny.
LOW_THRESHOLD = 0.1
HIGH_THRESHOLD = 0.2
CHAIN = 64  # pixels over which a weak edge is followed from a strong one


def canny_scores(images_BxHxWx3: jax.Array, patch_size: int) -> jax.Array:
    """Share of edge pixels of each patch, min-max scaled per image.

    Args:
      images_BxHxWx3: float images, any pixel scale; patch_size divides H and W.
      patch_size: side of a patch in pixels.

    Returns:
      float32 or wider (B, L) in [0, 1], patches in row-major order; all 0 for a flat image.
    """
    wide = jnp.promote_types(images_BxHxWx3.dtype, jnp.float32)
    return scaled_patch_means(canny_edges(images_BxHxWx3).astype(wide), patch_size, 0.0)


def canny_edges(images_BxHxWx3: jax.Array) -> jax.Array:
    """Edges one pixel wide, of the luma scaled to [0, 1] per image: bool (B, H, W)."""
    luma_BxHxW = luma(images_BxHxWx3)
    low = luma_BxHxW.min(axis=(1, 2), keepdims=True)
    spread = luma_BxHxW.max(axis=(1, 2), keepdims=True) - low
    real = spread > noise_floor(images_BxHxWx3)[:, None, None]
    scaled = jnp.where(real, (luma_BxHxW - low) / jnp.where(real, spread, 1.0), 0.0)
    gradient_x, gradient_y = sobel_gradients(smooth(scaled))
    magnitude = jnp.sqrt(jnp.square(gradient_x) + jnp.square(gradient_y))
    ridge = local_maxima(magnitude, gradient_x, gradient_y)
    weak = ridge & (magnitude >= LOW_THRESHOLD)
    return connected(weak & (magnitude >= HIGH_THRESHOLD), weak)


def smooth(luma_BxHxW: jax.Array) -> jax.Array:
    """Gaussian mean over the pixels within the image: near the border, of fewer pixels."""
    taps = np.exp(-0.5 * np.square(np.arange(-RADIUS, RADIUS + 1) / SIGMA))
    x = luma_BxHxW
    for axis in (1, 2):
        size = x.shape[axis]
        weights = np.convolve(np.ones(size), taps)[RADIUS : RADIUS + size]
        padding = [(RADIUS, RADIUS) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(x, padding)
        shifted = (
            tap * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, tap in enumerate(taps.tolist())
        )
        x = sum(shifted) / jnp.expand_dims(jnp.asarray(weights, x.dtype), 2 - axis)[None]
    return x


def local_maxima(magnitude: jax.Array, gradient_x: jax.Array, gradient_y: jax.Array) -> jax.Array:
    """Pixels whose magnitude is not below that of both neighbours along their gradient.

    A neighbour's magnitude is interpolated between the two pixels on either side of the gradient's
    direction. Pixels at the border are no maxima.

    Args:
      magnitude, gradient_x, gradient_y: (B, H, W).

    Returns:
      bool (B, H, W).
    """
    padded = jnp.pad(magnitude, ((0, 0), (1, 1), (1, 1)))
    height, width = magnitude.shape[1:]

    def at(down: int, right: int) -> jax.Array:
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = jnp.abs(gradient_x), jnp.abs(gradient_y)
    steep = y >= x
    larger = jnp.maximum(x, y)
    share = jnp.minimum(x, y) / jnp.where(larger > 0.0, larger, 1.0)  # of the diagonal pixel
    falling = gradient_x * gradient_y >= 0.0  # along the diagonal down and to the right
    maxima = jnp.ones(magnitude.shape, bool)
    for sign in (1, -1):
        straight = jnp.where(steep, at(sign, 0), at(0, sign))
        rising = jnp.where(steep, at(sign, -sign), at(-sign, sign))
        diagonal = jnp.where(falling, at(sign, sign), rising)
        maxima &= magnitude >= share * diagonal + (1.0 - share) * straight
    inside = np.zeros((height, width), bool)
    inside[1:-1, 1:-1] = True
    return maxima & inside


def connected(strong: jax.Array, weak: jax.Array) -> jax.Array:
    """Weak pixels that a chain of weak neighbours connects to a strong one, diagonals included.

    The chain has at most CHAIN pixels: a loop of fixed length costs the same for every batch, and
    pgs.compile can count it. The longest chain of the five photographs at 224 pixels has 39.

    Args:
      strong, weak: bool (B, H, W); every strong pixel is weak too.
    """

    def grow(_, found: jax.Array) -> jax.Array:
        for axis in (1, 2):
            size = found.shape[axis]
            padded = jnp.pad(found, [(1, 1) if a == axis else (0, 0) for a in range(3)])
            before, after = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
            found |= before | after
        return found & weak

    return jax.lax.fori_loop(0, CHAIN, grow, strong)
