"""Balance of a similarity matrix by optimal transport (docs/masking.md, step 4)."""

import jax
import jax.numpy as jnp

ITERATIONS = 20


def log_kernel(similarity_BxLxL: jax.Array, epsilon: float) -> jax.Array:
    """log K = (S - 1) / epsilon, (B, L, L): 0 on the diagonal of a cosine matrix, negative elsewhere."""
    return (similarity_BxLxL - 1.0) / epsilon


def balance(similarity_BxLxL: jax.Array, epsilon: float, iterations: int = ITERATIONS) -> jax.Array:
    """Scales K = exp((S - 1) / epsilon) to a doubly stochastic P = diag(d) K diag(d).

    K is symmetric, so one vector is enough: d <- sqrt(d / (K d)), the symmetric Sinkhorn
    iteration (Knight, Ruiz & Ucar 2014), with one matrix-vector product each.

    K is first divided by the square roots of its diagonal, on both sides, which does not change
    P. Its diagonal is then 1, so that K d >= d > 0 even if other entries underflow: no epsilon
    leads to a division by zero.

    Args:
      similarity_BxLxL: symmetric, in [-1, 1], the diagonal is the largest entry of its row (as
        in any Gram matrix of unit vectors).
      epsilon: entropy regularisation, > 0; a small value keeps only the closest pairs.
      iterations: fixed count; with the default, row sums on photographs are 1 within 1e-3.

    Returns:
      log P (B, L, L), symmetric, finite, in float32 or wider.
    """
    wide = jnp.promote_types(similarity_BxLxL.dtype, jnp.float32)
    log_k = log_kernel(similarity_BxLxL.astype(wide), epsilon)
    half_diagonal = 0.5 * jnp.diagonal(log_k, axis1=1, axis2=2)
    # The bound only matters for matrices that are not Gram matrices: exp must not overflow.
    log_k = jnp.minimum(log_k - half_diagonal[:, :, None] - half_diagonal[:, None, :], 60.0)
    kernel = jnp.exp(log_k)

    def sinkhorn(_, d_BxL):
        row_sums = jnp.einsum('bij,bj->bi', kernel, d_BxL, precision=jax.lax.Precision.HIGHEST)
        return jnp.sqrt(d_BxL / row_sums)

    d_BxL = jax.lax.fori_loop(0, iterations, sinkhorn, jnp.ones_like(half_diagonal))
    log_d = jnp.log(d_BxL)
    return log_k + log_d[:, :, None] + log_d[:, None, :]


def rescale(similarity_BxLxL: jax.Array, epsilon: float) -> jax.Array:
    """The ablation without transport: K times one scalar for each image, so that its mean is 1 / L.

    Returns:
      log of the rescaled kernel (B, L, L), finite, in float32 or wider.
    """
    wide = jnp.promote_types(similarity_BxLxL.dtype, jnp.float32)
    log_k = log_kernel(similarity_BxLxL.astype(wide), epsilon)
    length = similarity_BxLxL.shape[-1]
    log_total = jax.nn.logsumexp(log_k, axis=(1, 2), keepdims=True)
    return log_k - log_total + jnp.log(jnp.asarray(length, wide))
