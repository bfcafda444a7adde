"""Balance of a similarity matrix by optimal transport (docs/masking.md, step 4).

Shapes: B images, L patches of an image, C rows of a plan that are wanted.
"""

import jax
import jax.numpy as jnp

from pgs.masking.similarity import diagonal

ITERATIONS = 20
# Precision of the products of the last iterations; those before them have the default one, which is
# bfloat16 on a TPU. P is symmetric with eigenvalues from 0 to 1, so that an iteration at least
# halves the errors of log d that it is given: what rounding left is below float32's after these.
LAST_ITERATIONS = ((jax.lax.Precision.HIGH, 8), (jax.lax.Precision.HIGHEST, 6))


def log_kernel(similarity_BxLxL: jax.Array, epsilon: float) -> jax.Array:
    """log K = (S - 1) / epsilon, (B, L, L): 0 on the diagonal of a cosine matrix, negative elsewhere."""
    return (similarity_BxLxL - 1.0) / epsilon


def balance(
    similarity_BxLxL: jax.Array, epsilon: float, rows_BxC: jax.Array | None = None
) -> jax.Array:
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
      rows_BxC: int, the rows to return; None: all.

    Returns:
      log P (B, C or L, L), symmetric, finite, in float32 or wider. Row sums of P on photographs are
      1 within 1e-3.
    """
    wide = jnp.promote_types(similarity_BxLxL.dtype, jnp.float32)
    similarity_BxLxL = similarity_BxLxL.astype(wide)
    half_diagonal_BxL = 0.5 * log_kernel(diagonal(similarity_BxLxL), epsilon)

    def scaled(similarity_BxRxL: jax.Array, half_diagonal_BxR: jax.Array) -> jax.Array:
        """log K of some rows, after the division. The bound only matters for matrices that are not
        Gram matrices: exp must not overflow."""
        log_k = log_kernel(similarity_BxRxL, epsilon)
        return jnp.minimum(log_k - half_diagonal_BxR[:, :, None] - half_diagonal_BxL[:, None], 60.0)

    kernel_BxLxL = jnp.exp(scaled(similarity_BxLxL, half_diagonal_BxL))
    d_BxL = jnp.ones_like(half_diagonal_BxL)
    first = ITERATIONS - sum(count for _, count in LAST_ITERATIONS)
    for precision, count in ((jax.lax.Precision.DEFAULT, first), *LAST_ITERATIONS):

        def sinkhorn(_, d_BxL, precision=precision):
            sums_BxL = jnp.einsum('bij,bj->bi', kernel_BxLxL, d_BxL, precision=precision)
            return jnp.sqrt(d_BxL / sums_BxL)

        d_BxL = jax.lax.fori_loop(0, count, sinkhorn, d_BxL)
    log_d_BxL = jnp.log(d_BxL)
    return (
        scaled(rows_of(similarity_BxLxL, rows_BxC), rows_of(half_diagonal_BxL, rows_BxC))
        + rows_of(log_d_BxL, rows_BxC)[:, :, None]
        + log_d_BxL[:, None, :]
    )


def rescale(
    similarity_BxLxL: jax.Array, epsilon: float, rows_BxC: jax.Array | None = None
) -> jax.Array:
    """The ablation without transport: K times one scalar for each image, so that its mean is 1 / L.

    Returns:
      log of the rescaled kernel (B, C or L, L), finite, in float32 or wider.
    """
    wide = jnp.promote_types(similarity_BxLxL.dtype, jnp.float32)
    log_k = log_kernel(similarity_BxLxL.astype(wide), epsilon)
    length = similarity_BxLxL.shape[-1]
    log_total = jax.nn.logsumexp(log_k, axis=(1, 2), keepdims=True)
    return rows_of(log_k, rows_BxC) - log_total + jnp.log(jnp.asarray(length, wide))


def rows_of(x: jax.Array, rows_BxC: jax.Array | None) -> jax.Array:
    """Some rows of (B, L, ...), one choice for each image: (B, C, ...); None: all."""
    if rows_BxC is None:
        return x
    return jax.vmap(lambda x, rows: x[rows])(x, rows_BxC)
