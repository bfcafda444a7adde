"""FLOPs by hand: products, loops, branches, gradients, remat."""

import jax
import jax.numpy as jnp
import pytest

from pgs.compile.flops import flops_of, matmul_flops

A = jax.ShapeDtypeStruct((4, 8), jnp.float32)
B = jax.ShapeDtypeStruct((8, 16), jnp.float32)
PRODUCT = 2 * 4 * 8 * 16


def test_a_product_and_its_gradient():
    assert flops_of(jnp.matmul, A, B) == PRODUCT
    assert flops_of(jax.grad(lambda a, b: jnp.sin(a @ b).sum(), argnums=(0, 1)), A, B) == (
        3 * PRODUCT
    )


def test_batched_and_convolved():
    stacked = [jax.ShapeDtypeStruct((5, *x.shape), jnp.float32) for x in (A, B)]
    assert flops_of(jnp.matmul, *stacked) == 5 * PRODUCT
    image = jax.ShapeDtypeStruct((1, 3, 8, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((7, 3, 2, 2), jnp.float32)
    convolve = lambda x, k: jax.lax.conv(x, k, (2, 2), 'VALID')  # noqa: E731
    assert flops_of(convolve, image, kernel) == 2 * (7 * 4 * 4) * (3 * 2 * 2)


def test_loops_count_each_turn():
    square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    loop = lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, length=12)[0]  # noqa: E731
    assert flops_of(loop, square) == 12 * 2 * 8**3
    counted = lambda a: jax.lax.fori_loop(0, 5, lambda _, c: c @ c, a)  # noqa: E731
    assert flops_of(counted, square) == 5 * 2 * 8**3


def test_the_dearest_branch_counts():
    def branch(p, a, b):
        return jax.lax.cond(p, lambda: a @ b, lambda: a @ (b + b) + (a * 2) @ b)

    assert flops_of(branch, True, A, B) == 2 * PRODUCT


def test_of_branches_by_platform_that_of_the_platform_counts():
    def by_platform(a, b):
        return jax.lax.platform_dependent(
            a, b, tpu=lambda a, b: a @ b + (a * 2) @ b, default=lambda a, b: a @ b
        )

    traced = jax.make_jaxpr(by_platform)(A, B)
    assert [matmul_flops(traced, p) for p in ('cpu', 'gpu', 'tpu')] == [
        PRODUCT,
        PRODUCT,
        2 * PRODUCT,
    ]


def test_remat_costs_what_it_computes_again():
    layer = lambda a, b: jnp.sin(a @ b).sum()  # noqa: E731
    again = jax.checkpoint(layer, policy=jax.checkpoint_policies.nothing_saveable)
    plain, remat = (flops_of(jax.grad(f, argnums=(0, 1)), A, B) for f in (layer, again))
    assert remat == plain + PRODUCT


def test_a_loop_of_unknown_length_is_refused():
    unknown = lambda a: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, a)  # noqa: E731
    with pytest.raises(ValueError, match='length is not known'):
        flops_of(unknown, jax.ShapeDtypeStruct((8, 8), jnp.float32))
