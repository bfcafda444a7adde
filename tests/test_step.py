"""The train step: one compilation, one result on any number of devices, nothing hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgs import sharding
from pgs.errors import UserError
from pgs.masking import configured
from pgs.models import build_model
from pgs.models.clip import MAX_LOG_SCALE
from pgs.optimizer import build_optimizer, build_schedule
from pgs.step import init_state, jit_train_step, make_train_step


def build(config, devices):
    mesh = sharding.make_mesh(config.batch_size, devices)
    model = build_model(config.model, dtype=jnp.float32)
    schedule = build_schedule(config.optimizer, config.total_steps)
    optimizer = build_optimizer(config.optimizer, schedule)
    strategy = configured(config.masking, config.model.image.patch_size)
    step = make_train_step(
        model, optimizer, schedule, strategy, seed=config.seed, total_steps=config.total_steps
    )
    return mesh, step, init_state(model, optimizer, config.seed, mesh)


def batches(config, count):
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, config.model.text.context_length
    for _ in range(count):
        yield {
            'images': rng.integers(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8),
            'tokens': rng.integers(1, 49407, (config.batch_size, length)).astype(np.int32),
        }


def run(config, devices, count=4):
    mesh, step, state = build(config, devices)
    jitted = jit_train_step(step, mesh)
    history = []
    for batch in batches(config, count):
        state, metrics = jitted(state, sharding.to_devices(mesh, batch))
        history.append({k: float(v) for k, v in metrics.items()})
    return jitted, state, history


def test_one_compilation_for_many_steps(tiny_config):
    jitted, state, history = run(tiny_config, jax.devices()[:1])
    assert jitted._cache_size() == 1
    assert int(state.step) == 4
    assert set(history[0]) == {'loss', 'grad_norm', 'logit_scale', 'learning_rate', 'mask_ratio'}
    assert all(0.3 <= h['mask_ratio'] <= 0.5 for h in history)


@pytest.mark.parametrize('strategy', ['none', 'random', 'pgs'])
def test_four_devices_compute_what_one_does(tiny_config, strategy):
    tiny_config.masking.strategy = strategy
    _, one, history_one = run(tiny_config, jax.devices()[:1])
    _, four, history_four = run(tiny_config, jax.devices()[:4])
    for a, b in zip(history_one, history_four, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)
    assert len(four.params['logit_scale'].sharding.device_set) == 4
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_old_state_is_given_up(tiny_config):
    mesh, step, state = build(tiny_config, jax.devices()[:1])
    batch = sharding.to_devices(mesh, next(batches(tiny_config, 1)))
    kernel = state.params['image_tower']['projection']
    jit_train_step(step, mesh)(state, batch)
    assert kernel.is_deleted()


def test_the_step_is_pure(tiny_config):
    """Same state and batch, same result; no callback and no transfer in it."""
    _, step, state = build(tiny_config, jax.devices()[:1])
    batch = next(batches(tiny_config, 1))
    jaxpr = str(jax.make_jaxpr(step)(state, batch))
    assert 'callback' not in jaxpr
    jitted = jax.jit(step)
    first, again = (jitted(state, batch)[0] for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_progress_and_key_follow_the_step(tiny_config):
    """At another step the same state and batch see another mask, so the loss differs."""
    _, step, state = build(tiny_config, jax.devices()[:1])
    batch = next(batches(tiny_config, 1))
    jitted = jax.jit(step)
    losses = [float(jitted(state.replace(step=jnp.int32(s)), batch)[1]['loss']) for s in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_logit_scale_is_clipped(tiny_config):
    _, step, state = build(tiny_config, jax.devices()[:1])
    params = state.params | {'logit_scale': jnp.float32(MAX_LOG_SCALE + 1)}
    after, _ = jax.jit(step)(state.replace(params=params), next(batches(tiny_config, 1)))
    assert float(after.params['logit_scale']) == pytest.approx(MAX_LOG_SCALE)


def test_a_batch_learns(tiny_config):
    tiny_config.total_steps = 60
    tiny_config.optimizer.warmup_steps = 5
    mesh, step, state = build(tiny_config, jax.devices()[:1])
    jitted = jit_train_step(step, mesh)
    batch = sharding.to_devices(mesh, next(batches(tiny_config, 1)))
    losses = []
    for _ in range(60):
        state, metrics = jitted(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[0] > np.log(16) * 0.9
    assert losses[-1] < 0.2 * np.log(16)


def test_a_batch_that_the_devices_do_not_divide_is_named(tiny_config):
    with pytest.raises(UserError, match=r'batch_size=6 .* 4 devices: take 4 or 8'):
        sharding.make_mesh(6, jax.devices()[:4])
    with pytest.raises(UserError, match=r'batch_size=2 .* take 4'):
        sharding.make_mesh(2, jax.devices()[:4])
