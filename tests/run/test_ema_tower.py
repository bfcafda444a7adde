"""The EMA tower of a run: kept in checkpoints, restored on any mesh, refused where it is absent."""

import itertools

import jax
import numpy as np
import pytest
from conftest import one_device_mesh, shrunk_quickstart
from small_clip import same_trees

from pgs import sharding
from pgs.build import build
from pgs.convert import load_model
from pgs.errors import UserError
from pgs.inference import load_clip
from pgs.run import checkpoint, init_from, workdir
from pgs.step import init_state, lower_train_step


def attentive_config():
    config = shrunk_quickstart(total_steps=6)
    config.masking.update(strategy='attentive', ema_decay=0.5)  # fast, to be seen
    config.model.image.width = 64  # large enough to be sharded
    return config


def batch_of(config, step):
    rng = np.random.default_rng(step)
    size, length = config.model.image.image_size, config.model.text.context_length
    return {
        'images': rng.integers(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8),
        'tokens': rng.integers(1, 49407, (config.batch_size, length)).astype(np.int32),
    }


def fresh(config, mesh):
    job = build(config, total_steps=config.total_steps, platform='cpu')
    averaged = config.weights_ema > 0.0
    return job, init_state(
        job.model, job.optimizer, config.seed, mesh, job.strategy, averaged=averaged
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of four steps with a checkpoint after two: (folder, config, step, states)."""
    config, mesh = attentive_config(), one_device_mesh(16)
    folder = tmp_path_factory.mktemp('runs') / 'attentive'
    workdir.prepare(folder, config.to_dict())
    job, state = fresh(config, mesh)
    step = lower_train_step(job.train_step, mesh, state, batch_of(config, 0)).compile()
    states = [jax.device_get(state)]
    with checkpoint.open_manager(folder / 'checkpoints', keep=1) as manager:
        for i in range(4):
            state, _ = step(state, sharding.to_devices(mesh, batch_of(config, i)))
            states.append(jax.device_get(state))
            if i == 1:
                checkpoint.save(manager, 2, state)
    return folder, config, step, states


def restored(folder, config, mesh):
    with checkpoint.open_manager(folder / 'checkpoints', keep=1) as manager:
        return checkpoint.restore(manager, fresh(config, mesh)[1])


def test_the_average_starts_as_a_copy_and_follows_the_weights_before_the_step(run):
    *_, states = run
    same_trees(states[0].ema, states[0].params['image_tower'])
    for i, (before, after) in enumerate(itertools.pairwise(states)):
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * i / 6))
        for old, new, tower in zip(
            *map(jax.tree.leaves, (before.ema, after.ema, before.params['image_tower'])),
            strict=True,
        ):
            np.testing.assert_allclose(new, old + rate * (tower - old), atol=1e-6)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*(jax.tree.leaves(s.ema) for s in (states[0], states[4])), strict=True)
    ]
    assert max(moved) > 1e-5


def test_a_resumption_in_the_middle_is_bit_identical(run):
    folder, config, step, states = run
    state = restored(folder, config, one_device_mesh(16))
    assert int(state.step) == 2
    for i in (2, 3):
        state, _ = step(state, sharding.to_devices(one_device_mesh(16), batch_of(config, i)))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[4]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_is_sharded_as_the_weights_are(run):
    folder, config, _, states = run
    mesh = sharding.make_mesh({'data': 1, 'fsdp': 2}, 16, jax.devices()[:2])
    state = restored(folder, config, mesh)
    kernel = state.ema['transformer']['blocks']['fc']['kernel']
    assert kernel.sharding.spec == sharding.PartitionSpec(None, None, 'fsdp')
    same_trees(jax.device_get(state.ema), states[2].ema)
    for ema, weight in zip(
        *map(jax.tree.leaves, (state.ema, state.params['image_tower'])), strict=True
    ):
        assert ema.sharding == weight.sharding


def test_other_strategies_have_no_further_arrays():
    config = shrunk_quickstart(total_steps=6)
    _, state = fresh(config, one_device_mesh(16))
    assert state.ema is None
    assert len(jax.tree.leaves(state)) == 117
    assert list(checkpoint.content(state)) == ['step', 'params', 'opt_state']


def test_a_checkpoint_without_it_is_refused_with_the_way_out(tmp_path):
    config = shrunk_quickstart(total_steps=6)
    mesh = one_device_mesh(16)
    with checkpoint.open_manager(tmp_path / 'checkpoints', keep=1) as manager:
        checkpoint.save(manager, 2, fresh(config, mesh)[1])
    with pytest.raises(UserError, match=r'2 holds no EMA tower.*--config\.init_from=') as error:
        restored(tmp_path, attentive_config(), mesh)
    assert len(str(error.value).splitlines()) == 1
    config.weights_ema = 0.99
    with pytest.raises(UserError, match=r'no average of the weights, which config\.weights_ema'):
        restored(tmp_path, config, mesh)


def test_the_run_is_read_and_scored_like_any_other(run, photos):
    folder, _, _, states = run
    same_trees(jax.device_get(load_model(folder).params), states[2].params)
    images = np.ascontiguousarray(photos[:, :32, :32])
    features = [load_clip(folder, masking=name).images(images) for name in ('trained', 'none')]
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_a_run_from_given_weights_starts_the_average_there(run):
    folder, config, step, states = run
    params = load_model(folder).params
    state = init_from.place(fresh(config, one_device_mesh(16))[1], jax.device_get(params))
    same_trees(jax.device_get(state.ema), states[2].params['image_tower'])
    step(
        state, sharding.to_devices(one_device_mesh(16), batch_of(config, 0))
    )  # gives its arrays up
