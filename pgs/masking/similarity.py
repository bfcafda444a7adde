"""Similarity between the patches of one image (docs/masking.md, step 2).

Shapes: B images of H x W pixels, L patches of an image, D width of a vector.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from pgs.layout import row_major

# Squared norm per dimension below which a vector counts as zero. The cosine of a flat patch is
# undefined; here two flat patches are alike (cosine 1), and a flat and a textured patch are not
# (cosine 0). The value is far below the variance of one grey level (1e-5) and far above rounding.
FLAT_VARIANCE = 1e-9


def pixel_patches(images_BxHxWx3: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images into patches: (B, H, W, 3) -> (B, L, patch_size * patch_size * 3), row-major."""
    return rearrange(
        images_BxHxWx3, 'b (h p) (w q) c -> b (h w) (p q c)', p=patch_size, q=patch_size
    )


def cosine_matrix(vectors_BxLxD: jax.Array) -> jax.Array:
    """Cosines between all vectors of an image; zero vectors count as alike.

    Every vector gets one more coordinate, sqrt(D * FLAT_VARIANCE), before it is normalised. It
    dominates a zero vector and vanishes in any other, so that the result is a Gram matrix of unit
    vectors: symmetric, with diagonal 1, never NaN.

    Args:
      vectors_BxLxD: any float dtype; computed in float32 (float64 stays float64).

    Returns:
      (B, L, L) in [-1, 1] up to rounding.
    """
    x = vectors_BxLxD.astype(jnp.promote_types(vectors_BxLxD.dtype, jnp.float32))
    flat = x.shape[-1] * FLAT_VARIANCE
    inverse_norm = jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + flat)
    if vectors_BxLxD.dtype.itemsize == 2:
        # Products of 16-bit numbers are exact in float32, so that they need no higher precision.
        products = jnp.einsum(
            'bid,bjd->bij', vectors_BxLxD, vectors_BxLxD, preferred_element_type=jnp.float32
        )
        return (products + flat) * inverse_norm * jnp.swapaxes(inverse_norm, 1, 2)
    unit = x * inverse_norm
    rest = jnp.sqrt(flat) * inverse_norm
    cosines = jnp.einsum('bid,bjd->bij', unit, unit, precision=jax.lax.Precision.HIGHEST)
    return cosines + rest * jnp.swapaxes(rest, 1, 2)


def patch_similarity(
    images_BxHxWx3: jax.Array,
    embeddings_BxLxD: jax.Array,
    progress: jax.Array | float,
    *,
    patch_size: int,
) -> jax.Array:
    """S = (1 - progress) * cos(standardised pixel patches) + progress * cos(patch embeddings).

    Args:
      images_BxHxWx3: float images; patch_size divides H and W.
      embeddings_BxLxD: patch embeddings after the position embedding.
      progress: step / total_steps in [0, 1].
      patch_size: side of a patch in pixels.

    Returns:
      (B, L, L), symmetric, in [-1, 1], diagonal 1.
    """
    pixels = row_major(pixel_patches(images_BxHxWx3, patch_size))
    pixels = pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32))
    # The cosine divides by the norm, so that there is no need to divide by the deviation.
    # The first pixel is subtracted before the mean, so that a flat patch becomes exactly 0.
    shifted = pixels - pixels[..., :1]
    centred = shifted - shifted.mean(axis=-1, keepdims=True)
    return (1.0 - progress) * cosine_matrix(centred) + progress * cosine_matrix(embeddings_BxLxD)
