"""InfoNCE by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pgs.loss import info_nce
from pgs.models.clip import unit_norm


def test_by_hand_in_numpy():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 5, 8))
    logits = 3.0 * image @ text.T
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    expected = -0.5 * (np.diag(rows).mean() + np.diag(columns).mean())
    np.testing.assert_allclose(info_nce(image, text, 3.0), expected, rtol=1e-5)


@pytest.mark.parametrize('chunk', [3, 16, 4096])
def test_chunks_change_neither_value_nor_gradient(chunk):
    """Against the whole matrix and autodiff; 3 does not divide the batch."""

    def whole_matrix(image, text, scale):
        logits = scale * jnp.einsum('ie,je->ij', image, text, precision='highest')
        xent = optax.softmax_cross_entropy_with_integer_labels
        labels = jnp.arange(len(logits))
        return 0.5 * (xent(logits, labels).mean() + xent(logits.T, labels).mean())

    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 16, 8)).astype(np.float32)
    arguments = unit_norm(image), unit_norm(text), jnp.float32(14.0)
    expected = jax.value_and_grad(whole_matrix, argnums=(0, 1, 2))(*arguments)
    chunked = functools.partial(info_nce, chunk=chunk)
    found = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1, 2)))(*arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_square_of_the_batch():
    """By XLA's own account, 8192 pairs take twice the memory of 4096 and not four times."""
    peak = {}
    for size in (4096, 8192):
        features = jax.ShapeDtypeStruct((size, 64), jnp.float32)
        gradient = jax.jit(jax.grad(functools.partial(info_nce, chunk=512), argnums=(0, 1)))
        compiled = gradient.lower(features, features, jnp.float32(1.0)).compile()
        peak[size] = compiled.memory_analysis().temp_size_in_bytes
    assert peak[8192] < 2.1 * peak[4096]
    assert peak[8192] < 8192 * 8192 * 4 / 2


def test_features_that_tell_nothing_cost_log_batch():
    same = jnp.ones((7, 4)) / 2.0
    np.testing.assert_allclose(info_nce(same, same, 100.0), np.log(7), rtol=1e-5)


def test_perfect_features_cost_nothing():
    eye = jnp.eye(6)
    assert float(info_nce(eye, eye, 100.0)) < 1e-6


def test_large_scale_stays_finite():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 8)).astype(np.float32) * 100
    value, grad = jax.value_and_grad(info_nce)(jnp.asarray(features), -features, 100.0)
    assert np.isfinite(value)
    assert bool(jnp.isfinite(grad).all())
