"""Which parameters decay, and the learning rate over a run."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, quickstart
from pgs.models import build_model
from pgs.optimizer import build_optimizer, build_schedule, decay_mask


def test_only_matrices_decay():
    config = quickstart.get_config()
    model = build_model(config.model, dtype=jnp.float32)
    images, tokens = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 24), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']
    mask = flax.traverse_util.flatten_dict(decay_mask(params), sep='/')
    assert {path.split('/')[-1] for path, decays in mask.items() if decays} == {
        'kernel',
        'positions',
        'projection',
        'token_embedding',
    }
    assert {path.split('/')[-1] for path, decays in mask.items() if not decays} == {
        'scale',
        'bias',
        'class_token',
        'logit_scale',
    }


def test_decay_is_decoupled_and_scaled_by_the_rate():
    settings = base.get_config().optimizer
    optimizer = build_optimizer(settings, 0.1)
    params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates['kernel'], -0.1 * 0.2, rtol=1e-6)
    np.testing.assert_allclose(updates['bias'], 0.0)


def test_schedule_of_the_recipe():
    schedule = build_schedule(base.get_config().optimizer, 85_696)
    assert schedule(0) == pytest.approx(1e-7)
    assert schedule(5_000) == pytest.approx(5e-4, rel=1e-3)
    assert schedule(10_000) == pytest.approx(1e-3)
    middle = 10_000 + (85_696 - 10_000) // 2
    assert schedule(middle) == pytest.approx(5e-4, rel=1e-3)
    assert schedule(85_696) == pytest.approx(0.0, abs=1e-9)


def test_a_run_shorter_than_its_warmup_follows_the_warmup():
    schedule = build_schedule(base.get_config().optimizer, 2)
    long = build_schedule(base.get_config().optimizer, 85_696)
    assert [float(schedule(s)) for s in range(3)] == [float(long(s)) for s in range(3)]


def test_a_tail_warms_up_again():
    """Two cosines: 0 where the unmasked end begins, its own peak after its warm-up, 0 at the end."""
    optimizer = base.get_config().optimizer
    optimizer.update(peak_learning_rate=1.0, warmup_steps=10)
    plain = build_schedule(optimizer, 100)
    assert [float(plain(s)) for s in (5, 80)] == [
        float(build_schedule(optimizer, 100, tail_start=80)(s)) for s in (5, 80)
    ]  # without a tail rate the schedule goes on
    optimizer.update(tail_rate=0.5, tail_warmup_steps=5)
    schedule = build_schedule(optimizer, 100, tail_start=80)
    found = [float(schedule(s)) for s in (10, 45, 79, 80, 85, 99)]
    cosine = 0.5 * (1 + np.cos(np.pi * 0.5))
    np.testing.assert_allclose(found[:2], [1.0, cosine], atol=1e-6)
    assert found[2] < 0.001
    np.testing.assert_allclose(found[3:5], [0.1, 0.5], atol=1e-6)
    assert found[5] < 0.02
