"""The contrastive loss."""

import jax
import jax.numpy as jnp
import optax


def info_nce(
    image_features_BxE: jax.Array, text_features_BxE: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """Mean of image-to-text and text-to-image cross entropy over the global batch (CLIP, eq. 1-2).

    Args:
      image_features_BxE, text_features_BxE: float32, unit norm; row i of both is one pair.
      logit_scale: scalar factor on the cosines.

    Returns:
      float32 scalar; log(B) for features that tell nothing.
    """
    logits_BxB = logit_scale * jnp.einsum(
        'ie,je->ij', image_features_BxE, text_features_BxE, precision=jax.lax.Precision.HIGHEST
    )
    labels = jnp.arange(logits_BxB.shape[0])
    xent = optax.softmax_cross_entropy_with_integer_labels
    return 0.5 * (xent(logits_BxB, labels).mean() + xent(logits_BxB.T, labels).mean())
