"""InfoNCE by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from pgs.loss import info_nce


def test_by_hand_in_numpy():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 5, 8))
    logits = 3.0 * image @ text.T
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    expected = -0.5 * (np.diag(rows).mean() + np.diag(columns).mean())
    np.testing.assert_allclose(info_nce(image, text, 3.0), expected, rtol=1e-5)


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
