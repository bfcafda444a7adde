"""The balance: doubly stochastic, symmetric and finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgs.masking import transport
from pgs.masking.similarity import patch_similarity
from pgs.masking.transport import LAST_ITERATIONS, balance, log_kernel, rescale


def plan(similarity, epsilon):
    log_plan = balance(similarity, epsilon)
    assert bool(jnp.isfinite(log_plan).all())
    return np.exp(np.asarray(log_plan, np.float64))


@pytest.mark.parametrize('epsilon', [0.01, 0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize('progress', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_rows_and_columns_sum_to_one_on_photographs(
    normalized_photos, embeddings, epsilon, progress, dtype
):
    images, tokens = (jnp.asarray(a, dtype) for a in (normalized_photos, embeddings))
    similarity = patch_similarity(images, tokens, progress, patch_size=16)
    p = plan(similarity, epsilon)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(p.sum(axis=2), 1.0, atol=1e-3)
    np.testing.assert_allclose(p, p.transpose(0, 2, 1), rtol=1e-4)


def test_equals_the_two_sided_iteration_in_float64(normalized_photos, embeddings):
    """Sinkhorn on rows and columns in turn, 2000 times, is the definition of the balance."""
    similarity = patch_similarity(normalized_photos, embeddings, 0.3, patch_size=16)
    expected = np.exp(np.asarray(log_kernel(similarity, 0.1), np.float64))
    for _ in range(2000):
        expected /= expected.sum(axis=2, keepdims=True)
        expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan(similarity, 0.1), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('epsilon', [0.01, 0.1, 1.0])
def test_no_image_breaks_it(epsilon):
    constant = np.full((1, 64, 64, 3), 0.3, np.float32)
    black = np.zeros((1, 64, 64, 3), np.float32)
    pixel = black.copy()
    pixel[0, 5, 5] = 1.0
    images = np.concatenate([constant, black, pixel])
    similarity = patch_similarity(images, np.zeros((3, 16, 8), np.float32), 0.0, patch_size=16)
    p = plan(similarity, epsilon)
    np.testing.assert_allclose(p.sum(axis=2), 1.0, atol=1e-3)
    np.testing.assert_allclose(p[0], 1 / 16, rtol=1e-3)


def test_a_signed_matrix_that_is_no_gram_matrix_stays_finite():
    """The published code diverges here: rows of its kernel sum to less than nothing."""
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 20, 20)).astype(np.float32)
    p = plan(jnp.asarray((noise + noise.transpose(0, 2, 1)) / 2), 0.01)
    assert p.max() < 1e6


def test_rescaled_kernel_has_the_mean_of_a_balanced_one(normalized_photos, embeddings):
    similarity = patch_similarity(normalized_photos, embeddings, 0.0, patch_size=16)
    p = np.exp(np.asarray(rescale(similarity, 0.1), np.float64))
    np.testing.assert_allclose(p.mean(axis=(1, 2)), 1 / 196, rtol=1e-4)
    kernel = np.exp(np.asarray(log_kernel(similarity, 0.1), np.float64))
    ratio = p / kernel
    np.testing.assert_allclose(ratio / ratio[:, :1, :1], 1.0, rtol=1e-3)


def test_rows_are_those_of_the_whole_plan(normalized_photos, embeddings):
    similarity = patch_similarity(normalized_photos, embeddings, 0.3, patch_size=16)
    rows = np.random.default_rng(0).integers(0, 196, (len(similarity), 10))
    for couple in (balance, rescale):
        expected = np.take_along_axis(np.asarray(couple(similarity, 0.1)), rows[:, :, None], axis=1)
        np.testing.assert_array_equal(couple(similarity, 0.1, rows), expected)


def test_rounding_of_early_iterations_does_not_reach_the_plan(
    normalized_photos, embeddings, monkeypatch
):
    """A TPU's matrix unit rounds to bfloat16, or to two of them: here products do so as well."""
    similarity = patch_similarity(normalized_photos, embeddings, 0.3, patch_size=16)
    exact = np.asarray(balance(similarity, 0.1))
    einsum = jnp.einsum
    rounded = {jax.lax.Precision.DEFAULT: 1, jax.lax.Precision.HIGH: 2}

    def parts(x, count):
        total = jnp.zeros_like(x)
        for _ in range(count):
            total += (x - total).astype(jnp.bfloat16).astype(x.dtype)
        return total

    def of_a_tpu(form, a, b, precision):
        count = rounded.get(precision)
        a, b = (x if count is None else parts(x, count) for x in (a, b))
        return einsum(form, a, b, precision=precision)

    monkeypatch.setattr(jnp, 'einsum', of_a_tpu)
    monkeypatch.setattr(transport, 'LAST_ITERATIONS', ())
    assert np.abs(balance(similarity, 0.1) - exact).max() > 1e-4  # all of them rounded
    monkeypatch.undo()
    monkeypatch.setattr(jnp, 'einsum', of_a_tpu)
    np.testing.assert_allclose(balance(similarity, 0.1), exact, rtol=0, atol=1e-5)


def test_the_loops_are_not_unrolled():
    jaxpr = str(jax.make_jaxpr(lambda s: balance(s, 0.1))(jnp.eye(4)[None]))
    assert 'scan[' in jaxpr or 'while[' in jaxpr
    assert jaxpr.count('dot_general') == 1 + len(LAST_ITERATIONS)
