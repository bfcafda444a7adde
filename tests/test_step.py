"""The train step: one compilation, one result on any number of devices, nothing hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_device_mesh, shrunk_quickstart

from pgs import sharding
from pgs.build import build, check_microbatches
from pgs.errors import UserError
from pgs.masking import configured
from pgs.models.clip import MAX_LOG_SCALE
from pgs.step import init_state, jit_train_step, lower_train_step


def make(config, mesh):
    job = build(config, total_steps=config.total_steps, platform='cpu')
    return job.train_step, init_state(job.model, job.optimizer, config.seed, mesh, job.strategy)


def batches(config, count):
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, config.model.text.context_length
    for _ in range(count):
        yield {
            'images': rng.integers(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8),
            'tokens': rng.integers(1, 49407, (config.batch_size, length)).astype(np.int32),
        }


def run(config, mesh, count=4):
    step, state = make(config, mesh)
    first = sharding.to_devices(mesh, next(batches(config, 1)))
    compiled = lower_train_step(step, mesh, state, first).compile()
    history = []
    for batch in batches(config, count):
        state, metrics = compiled(state, sharding.to_devices(mesh, batch))
        history.append({k: float(v) for k, v in metrics.items()})
    return state, history


@functools.cache
def on_one_device(strategy='pgs'):
    config = shrunk_quickstart(total_steps=6)
    config.masking.strategy = strategy
    return run(config, one_device_mesh(16))


def assert_same(one, other, rtol=1e-5, atol=2e-5):
    (state_one, history_one), (state_other, history_other) = one, other
    for a, b in zip(history_one, history_other, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=rtol)
    pairs = zip(jax.tree.leaves(state_one.params), jax.tree.leaves(state_other.params), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    ('strategy', 'low', 'high'), [('pgs', 0.3, 0.5), ('attentive', 0.25, 0.25)]
)
def test_one_compilation_for_many_steps(tiny_config, strategy, low, high):
    tiny_config.masking.strategy = strategy
    mesh = one_device_mesh(16)
    step, state = make(tiny_config, mesh)
    jitted = jit_train_step(step, mesh, state)
    with jax.set_mesh(mesh):
        for batch in batches(tiny_config, 4):
            state, metrics = jitted(state, sharding.to_devices(mesh, batch))
            assert low <= float(metrics['mask_ratio']) <= high
    assert jitted._cache_size() == 1
    assert int(state.step) == 4
    assert set(metrics) == {'loss', 'grad_norm', 'logit_scale', 'learning_rate', 'mask_ratio'}


@pytest.mark.parametrize('data', [1, 8])
def test_packed_captions_train_as_unpacked_ones(data):
    config = shrunk_quickstart(total_steps=6)
    config.model.text.tokens_per_pair = 16
    mesh = one_device_mesh(16) if data == 1 else sharding.make_mesh({'data': 8, 'fsdp': 1}, 16)
    state, history = run(config, mesh)
    assert [line.pop('captions_cut') for line in history] == [0.0] * 4
    assert_same(on_one_device(), (state, history))


def test_captions_that_a_budget_cuts_are_counted():
    config = shrunk_quickstart(total_steps=6)
    config.model.text.tokens_per_pair = 2
    _, history = run(config, one_device_mesh(16), count=1)
    assert history[0]['captions_cut'] > 0.5


@pytest.mark.parametrize(
    ('strategy', 'data', 'fsdp'),
    [
        ('pgs', 8, 1),
        ('pgs', 4, 2),
        ('pgs', 1, 8),
        ('random', 2, 4),
        ('none', 4, 2),
        ('attentive', 2, 4),
    ],
)
def test_any_mesh_computes_what_one_device_does(tiny_config, strategy, data, fsdp):
    tiny_config.masking.strategy = strategy
    mesh = sharding.make_mesh({'data': data, 'fsdp': fsdp}, 16)
    many = run(tiny_config, mesh)
    assert_same(on_one_device(strategy), many)
    kernel = many[0].params['text_tower']['token_embedding']
    assert len(kernel.sharding.device_set) == 8
    assert kernel.addressable_shards[0].data.size * fsdp == kernel.size
    moments = many[0].opt_state[0].mu['text_tower']['token_embedding']
    assert moments.sharding == kernel.sharding


@pytest.mark.parametrize('sizes', [(1, 8, 1), (2, 2, 2)])
def test_a_state_split_by_zero_computes_what_one_device_does(tiny_config, sizes):
    """ZeRO-1, sizes of (data, zero, fsdp): parameters and moments lie in parts on the devices."""
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)), 16)
    many = run(tiny_config, mesh)
    assert_same(on_one_device('pgs'), many)
    same = on_one_device('pgs')[1]
    losses = ([line['loss'] for line in history] for history in (same, many[1]))
    np.testing.assert_allclose(*losses, rtol=1e-6)
    embedding = many[0].params['text_tower']['token_embedding']
    moments = many[0].opt_state[0].mu['text_tower']['token_embedding']
    for array in (embedding, moments):
        assert array.addressable_shards[0].data.size * sizes[1] * sizes[2] == array.size


def test_kernels_are_gathered_in_the_dtype_of_the_computation():
    """With 16 bits half of the bytes travel; what a gathered weight's gradient is, stays."""
    mesh = sharding.make_mesh({'data': 1, 'zero': 8}, 16)
    params = {'kernel': jnp.linspace(-1, 1, 2**14).reshape(64, 256), 'scale': jnp.ones(3)}

    def loss(params, dtype):
        weights = sharding.gather_weights(params, dtype)
        assert (weights['kernel'].dtype, weights['scale'].dtype) == (dtype, jnp.float32)
        return jnp.sum(jnp.square(weights['kernel'].astype(jnp.float32))) + weights['scale'].sum()

    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.state_sharding(mesh, params))
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(placed, jnp.bfloat16)
    assert gradient['kernel'].dtype == jnp.float32
    assert gradient['kernel'].sharding == placed['kernel'].sharding
    half = params['kernel'].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(gradient['kernel'], 2 * half)
    assert sharding.gather_weights(params, jnp.bfloat16) is params  # without a mesh


def test_whole_images_are_the_same_on_any_mesh(tiny_config):
    tiny_config.masking.update(whole_share=0.25, budget_group=4)
    one = run(tiny_config, one_device_mesh(16), count=2)
    assert one[1][0]['mask_ratio'] < 0.4  # a quarter of the images is not masked
    assert_same(
        one,
        run(
            tiny_config, sharding.make_mesh({'data': 2, 'fsdp': 2}, 16, jax.devices()[:4]), count=2
        ),
    )


@pytest.mark.parametrize(
    ('strategy', 'count', 'data', 'fsdp'),
    [('pgs', 4, 1, 1), ('pgs', 2, 2, 2), ('attentive', 4, 1, 1)],
)
def test_microbatches_compute_what_the_whole_batch_does(tiny_config, strategy, count, data, fsdp):
    """The masks too: an image's draw does not hang on its microbatch, nor its group's budget."""
    tiny_config.masking.update(strategy=strategy, budget_group=2)
    whole = run(tiny_config, one_device_mesh(16))
    mesh = sharding.make_mesh({'data': data, 'fsdp': fsdp}, 16, jax.devices()[: data * fsdp])
    tiny_config.microbatches = count
    assert_same(whole, run(tiny_config, mesh))


def test_the_gradient_of_microbatches_is_that_of_the_batch(tiny_config):
    """To 1e-5 of each gradient's largest entry; through the optimiser it could hide."""
    tiny_config.masking.budget_group = 4
    gradients = {}
    for count in (1, 4):
        tiny_config.microbatches = count
        job = build(tiny_config, total_steps=6, platform='cpu')
        state = init_state(job.model, job.optimizer, 0, one_device_mesh(16))
        # AdamW's first moment after one step is (1 - beta1) times the gradient.
        after, _ = jax.jit(job.train_step)(state, next(batches(tiny_config, 1)))
        gradients[count] = after.opt_state[0].mu
    for a, b in zip(*(jax.tree.leaves(g) for g in gradients.values()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max()))


@pytest.mark.parametrize(
    ('microbatches', 'words'),
    [
        (3, 'microbatches=3 does not divide the 8 pairs .* 1, 2, 4, 8'),
        (0, 'microbatches=0'),
        (4, 'leaves 2 pairs .*budget_group=16 .* take masking.budget_group=2, or'),
    ],
)
def test_microbatches_that_do_not_fit_are_named(tiny_config, microbatches, words):
    tiny_config.microbatches = microbatches
    with pytest.raises(UserError, match=words):
        check_microbatches(tiny_config, configured(tiny_config.masking, 8), 2)
    tiny_config.update(microbatches=4)
    tiny_config.masking.long_share = 1.0
    # Without a budget there are no groups that could be cut up.
    check_microbatches(tiny_config, configured(tiny_config.masking, 8), 2)


def test_the_old_state_is_given_up(tiny_config):
    mesh = one_device_mesh(16)
    step, state = make(tiny_config, mesh)
    batch = sharding.to_devices(mesh, next(batches(tiny_config, 1)))
    kernel = state.params['image_tower']['projection']
    lower_train_step(step, mesh, state, batch).compile()(state, batch)
    assert kernel.is_deleted()


def test_the_step_is_pure(tiny_config):
    """Same state and batch, same result; no callback and no transfer in it."""
    step, state = make(tiny_config, one_device_mesh(16))
    batch = next(batches(tiny_config, 1))
    jaxpr = str(jax.make_jaxpr(step)(state, batch))
    assert 'callback' not in jaxpr
    jitted = jax.jit(step)
    first, again = (jitted(state, batch)[0] for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_progress_and_key_follow_the_step(tiny_config):
    """At another step the same state and batch see another mask, so the loss differs."""
    step, state = make(tiny_config, one_device_mesh(16))
    batch = next(batches(tiny_config, 1))
    jitted = jax.jit(step)
    losses = [float(jitted(state.replace(step=jnp.int32(s)), batch)[1]['loss']) for s in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_the_scorer_is_updated_before_it_scores_and_kept_without_a_mask(tiny_config):
    tiny_config.masking.update(strategy='attentive', mask_ratio=0.75)
    batch = next(batches(tiny_config, 1))
    other = jax.tree.map(lambda x: x[..., ::-1], make(tiny_config, one_device_mesh(16))[1].ema)

    def loss(decay, ema):
        tiny_config.masking.ema_decay = decay
        step, state = make(tiny_config, one_device_mesh(16))
        return float(jax.jit(step)(state.replace(ema=ema or state.ema), batch)[1]['loss'])

    # With a decay of 0 the first step replaces the average by the weights, before they score.
    assert loss(0.0, other) == pytest.approx(loss(0.0, None), rel=1e-6)
    assert loss(0.99, other) != pytest.approx(loss(0.99, None), rel=1e-4)

    job = build(tiny_config, total_steps=6, platform='cpu')
    state = make(tiny_config, one_device_mesh(16))[1].replace(ema=other)
    after, metrics = jax.jit(job.unmasked_step)(state, batch)
    assert float(metrics['mask_ratio']) == 0.0
    for a, b in zip(jax.tree.leaves(after.ema), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_logit_scale_is_clipped(tiny_config):
    step, state = make(tiny_config, one_device_mesh(16))
    params = state.params | {'logit_scale': jnp.float32(MAX_LOG_SCALE + 1)}
    after, _ = jax.jit(step)(state.replace(params=params), next(batches(tiny_config, 1)))
    assert float(after.params['logit_scale']) == pytest.approx(MAX_LOG_SCALE)


def test_a_batch_learns(tiny_config):
    tiny_config.total_steps = 60
    tiny_config.optimizer.warmup_steps = 5
    mesh = one_device_mesh(16)
    step, state = make(tiny_config, mesh)
    batch = sharding.to_devices(mesh, next(batches(tiny_config, 1)))
    compiled = lower_train_step(step, mesh, state, batch).compile()
    losses = []
    for _ in range(60):
        state, metrics = compiled(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[0] > np.log(16) * 0.9
    assert losses[-1] < 0.2 * np.log(16)
