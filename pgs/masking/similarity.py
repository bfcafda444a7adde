"""Similarity between the patches of one image (docs/masking.md, step 2).

Shapes: B images of H x W pixels, L patches of an image, D width of a vector.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from pgs.layout import LANES, row_major

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
    x = vectors_BxLxD
    products_BxLxL = jnp.einsum(
        'bid,bjd->bij',
        x,
        x,
        # Products of 16-bit numbers are exact in float32, so that they need no higher precision.
        precision=None if x.dtype.itemsize == 2 else jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    products_BxLxL += x.shape[-1] * FLAT_VARIANCE
    inverse_norm_BxL = jax.lax.rsqrt(diagonal(products_BxLxL))
    return products_BxLxL * inverse_norm_BxL[:, :, None] * inverse_norm_BxL[:, None, :]


def diagonal(square_BxLxL: jax.Array) -> jax.Array:
    """The diagonal of each matrix, (B, L). Sums with zeros: a TPU gathers single numbers slowly."""
    eye_LxL = jnp.eye(square_BxLxL.shape[-1], dtype=bool)
    return jnp.where(eye_LxL, square_BxLxL, 0.0).sum(axis=1)


def means_by_product(x_BxLxD: jax.Array) -> jax.Array:
    """Mean of each vector, (B, L, 1), as a product with ones.

    A TPU adds up along the lanes of a register slowly. Ones are exact in bfloat16, so that three
    passes of the matrix unit give what six would.
    """
    width = x_BxLxD.shape[-1]
    sums_BxLxN = jax.lax.dot_general(
        x_BxLxD,
        jnp.ones((width, LANES), x_BxLxD.dtype),
        (((2,), (0,)), ((), ())),
        precision=(jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT),
    )
    return sums_BxLxN[..., :1] / width


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
    centred = shifted - jax.lax.platform_dependent(
        shifted, tpu=means_by_product, default=lambda x: x.mean(axis=-1, keepdims=True)
    )
    return (1.0 - progress) * cosine_matrix(centred) + progress * cosine_matrix(embeddings_BxLxD)
