"""The contrastive loss, in memory that does not grow with the square of the batch.

Shapes: B pairs of the global batch, E embedding width, C columns of a chunk.
"""

import functools

import jax
import jax.numpy as jnp

from pgs.sharding import replicate, shard_batch

# Columns of the logits that are in memory at a time. With 64 devices and a batch of 32768, a device
# holds 512 x 4096 of them (8 MB) instead of 512 x 32768.
CHUNK = 4096


def info_nce(
    image_features_BxE: jax.Array,
    text_features_BxE: jax.Array,
    logit_scale: jax.Array,
    *,
    chunk: int = CHUNK,
) -> jax.Array:
    """Mean of image-to-text and text-to-image cross entropy over the global batch (CLIP, eq. 1-2).

    Each device compares its own pairs with all others, chunk by chunk, with a running log-sum-exp.
    The backward pass recomputes the logits from the features and the two vectors of log-sums, so
    that nothing of size B x B is stored. Devices exchange only the features and these vectors
    (all-gather); each then computes the complete gradient of its own features.

    Args:
      image_features_BxE, text_features_BxE: float32, unit norm; row i of both is one pair.
      logit_scale: scalar factor on the cosines.
      chunk: columns of the logits that are in memory at a time.

    Returns:
      float32 scalar; log(B) for features without information.
    """
    return _info_nce(image_features_BxE, text_features_BxE, jnp.asarray(logit_scale), chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _info_nce(image_BxE, text_BxE, scale, chunk):
    return _forward(image_BxE, text_BxE, scale, chunk)[0]


def _forward(image_BxE, text_BxE, scale, chunk):
    all_image, all_text = replicate(image_BxE), replicate(text_BxE)
    image_lse_B = log_sum_exp(image_BxE, all_text, scale, chunk)
    text_lse_B = log_sum_exp(text_BxE, all_image, scale, chunk)
    own_B = scale * jnp.sum(image_BxE * text_BxE, axis=-1)
    loss = jnp.mean(0.5 * (image_lse_B + text_lse_B) - own_B)
    residuals = (image_BxE, text_BxE, all_image, all_text, scale, image_lse_B, text_lse_B)
    return loss, residuals


def _backward(chunk, residuals, gradient):
    image_BxE, text_BxE, all_image, all_text, scale, image_lse_B, text_lse_B = residuals
    half = 0.5 * gradient / image_BxE.shape[0]

    def feature_gradient(rows_BxE, own_BxE, row_lse_B, columns, column_lse):
        """Gradient of one side's features, from both directions' softmax."""
        mixed_BxE = attend(rows_BxE, columns, scale, row_lse_B, replicate(column_lse), chunk)
        return half * scale * (mixed_BxE - 2.0 * own_BxE)

    image_gradient = feature_gradient(image_BxE, text_BxE, image_lse_B, all_text, text_lse_B)
    text_gradient = feature_gradient(text_BxE, image_BxE, text_lse_B, all_image, image_lse_B)
    # The loss depends on the product scale * image only, which relates the derivatives by the two.
    scale_gradient = jnp.sum(image_gradient * image_BxE) / scale
    return image_gradient, text_gradient, scale_gradient


_info_nce.defvjp(_forward, _backward)


def chunks(columns_BxE: jax.Array, values_B: jax.Array, chunk: int):
    """Columns in chunks: (n, chunk, E) and (n, chunk); the last one is padded with `inf` values."""
    size = columns_BxE.shape[0]
    chunk = min(chunk, size)
    short = -size % chunk
    columns = jnp.pad(columns_BxE, ((0, short), (0, 0)))
    values = jnp.pad(values_B, (0, short), constant_values=jnp.inf)
    return columns.reshape(-1, chunk, columns.shape[-1]), values.reshape(-1, chunk)


def similarities(rows_BxE: jax.Array, columns_CxE: jax.Array) -> jax.Array:
    """Inner products of all rows with all columns, float32 (B, C), at full precision."""
    return jnp.einsum('be,ce->bc', rows_BxE, columns_CxE, precision=jax.lax.Precision.HIGHEST)


def log_sum_exp(rows_BxE, columns, scale, chunk) -> jax.Array:
    """log sum_j exp(scale * row_i . column_j), (B,)."""

    def add(carry, part):
        top_B, total_B = carry
        columns_CxE, offset_C = part
        logits_BxC = scale * similarities(rows_BxE, columns_CxE) - offset_C
        new_top_B = jnp.maximum(top_B, logits_BxC.max(axis=-1))
        total_B = total_B * jnp.exp(top_B - new_top_B)
        return (new_top_B, total_B + jnp.exp(logits_BxC - new_top_B[:, None]).sum(axis=-1)), None

    size = rows_BxE.shape[0]
    start = shard_batch(jnp.full((size,), -jnp.inf)), shard_batch(jnp.zeros((size,)))
    parts = chunks(columns, jnp.zeros(columns.shape[0]), chunk)
    (top_B, total_B), _ = jax.lax.scan(add, start, parts)
    return top_B + jnp.log(total_B)


def attend(rows_BxE, columns, scale, row_lse_B, column_lse, chunk) -> jax.Array:
    """sum_j (softmax of row i at j + softmax of column j at i) * column_j, (B, E)."""

    def add(total_BxE, part):
        columns_CxE, lse_C = part
        logits_BxC = scale * similarities(rows_BxE, columns_CxE)
        own_BxC = jnp.where(jnp.isinf(lse_C), 0.0, jnp.exp(logits_BxC - row_lse_B[:, None]))
        weights_BxC = own_BxC + jnp.exp(logits_BxC - lse_C)
        return total_BxE + similarities(weights_BxC, columns_CxE.T), None

    start = shard_batch(jnp.zeros_like(rows_BxE))
    return jax.lax.scan(add, start, chunks(columns, column_lse, chunk))[0]
