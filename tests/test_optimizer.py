"""Which parameters decay, and the learning rate over a run."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base, quickstart
from pgs.models import build_model
from pgs.optimizer import build_optimizer, build_schedule, decay_mask
from pgs.step import clipped, moved_weights


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


def test_without_options_it_is_adamw_to_the_bit():
    """The same arrays as optax.adamw of the recipe: states and checkpoints of earlier runs fit."""
    settings = base.get_config().optimizer
    plain = optax.adamw(
        0.1, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.2, mu_dtype='float32', mask=decay_mask
    )
    rng = np.random.default_rng(0)
    params = {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    results = []
    for optimizer in (build_optimizer(settings, 0.1), plain):
        state, current = optimizer.init(params), params
        for _ in range(3):
            updates, state = optimizer.update(current, state, current)
            current = optax.apply_updates(current, updates)
        results.append((current, state))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def tower(value):
    """Parameters of a tower of two layers, as in CLIP, and of another one."""
    return {
        'image_tower': {
            'positions': jnp.full((3, 4), value),
            'transformer': {'blocks': {'ln_1': {'scale': jnp.full((2, 4), value)}}},
            'projection': jnp.full((4, 4), value),
        },
        'logit_scale': jnp.float32(value),
    }


def test_a_layers_rate_scales_its_update_and_its_decay():
    settings = base.get_config().optimizer
    full = build_optimizer(settings, 0.1)
    settings.update(layer_decay=0.5, frozen_image_layers=1)
    scaled = build_optimizer(settings, 0.1)
    (expected, _), (found, _) = (
        o.update(tower(0.3), o.init(tower(2.0)), tower(2.0)) for o in (full, scaled)
    )
    expected, found = expected['image_tower'], found['image_tower']
    np.testing.assert_array_equal(found['positions'], 0.0)
    blocks, whole = (t['transformer']['blocks']['ln_1']['scale'] for t in (found, expected))
    np.testing.assert_array_equal(blocks[0], 0.0)
    np.testing.assert_allclose(blocks[1], 0.5 * whole[1], rtol=1e-6)
    np.testing.assert_array_equal(found['projection'], expected['projection'])
    assert float(expected['projection'][0, 0]) < -0.1  # with the decay of the weights


@pytest.mark.parametrize(
    ('schedule', 'expected'),
    [
        ('constant', [0.1, 1.0, 1.0, 1.0, 1.0]),
        ('wsd', [0.1, 1.0, 1.0, 0.5, 0.05]),
    ],
)
def test_other_schedules(schedule, expected):
    """At the start, after the warm-up, before the decay, in its middle, one step before the end."""
    optimizer = base.get_config().optimizer
    optimizer.update(peak_learning_rate=1.0, warmup_steps=10, schedule=schedule, decay_share=0.2)
    rate = build_schedule(optimizer, 100)
    np.testing.assert_allclose([rate(s) for s in (0, 10, 80, 90, 99)], expected, atol=1e-6)
    # A run that is shorter than its warm-up stays within the warm-up.
    short = build_schedule(optimizer, 5)
    np.testing.assert_allclose([short(s) for s in range(5)], [rate(s) for s in range(5)])
    # The unmasked end of a run has the same shape again.
    optimizer.update(tail_rate=0.5, tail_warmup_steps=5)
    tail = build_schedule(optimizer, 100, tail_start=50)
    np.testing.assert_allclose([tail(s) for s in (10, 55, 89)], [1.0, 0.5, 0.5], atol=1e-6)


def test_a_gradient_is_scaled_to_the_largest_norm():
    grads = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array(4.0)}
    found = clipped(grads, 1.0)
    np.testing.assert_allclose(found['a'], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found['b'], 0.8, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (clipped(grads, 5.0), grads)), strict=True):
        np.testing.assert_array_equal(a, b)
    zero = jax.tree.map(jnp.zeros_like, grads)
    assert all(not np.any(x) for x in jax.tree.leaves(clipped(zero, 1.0)))


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_norm_that_is_not_finite_leaves_no_gradient_finite(bad):
    """So that the step is skipped as a whole: the norm is part of every clipped gradient."""
    found = clipped({'a': jnp.array([1.0, bad]), 'b': jnp.array(4.0)}, 1.0)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(found))


def test_an_average_is_a_mean_of_the_first_steps_and_decays_later():
    """d = min(decay, (1 + step) / (10 + step)), computed here in float64."""
    average, expected = {'w': jnp.zeros(())}, 0.0
    for step in range(200):
        weight = np.sin(step)
        average = moved_weights(average, {'w': jnp.float32(weight)}, jnp.int32(step), 0.9)
        d = min(0.9, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * weight
    assert float(average['w']) == pytest.approx(expected, abs=1e-5)
