"""Checkpoints: what was saved comes back, though the run went on over its memory."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import one_device_mesh

from pgs import sharding
from pgs.run import checkpoint
from pgs.step import TrainState


def state_of(value, mesh):
    leaf = jnp.full((512, 512), value)
    state = TrainState(jnp.int32(value), {'w': leaf}, (leaf + 1,))
    return jax.device_put(state, sharding.state_sharding(mesh, state))


def test_restores_the_newest_though_training_went_on(tmp_path):
    mesh = one_device_mesh(4)
    manager = checkpoint.open_manager(tmp_path, keep=2)
    advance = jax.jit(
        lambda s: TrainState(s.step + 1, {'w': s.params['w'] + 1}, (s.opt_state[0] + 1,)),
        donate_argnums=0,
    )
    state = state_of(0.0, mesh)
    for step in range(1, 8):
        state = advance(state)  # overwrites what the asynchronous write may still read
        if step % 2 == 0:
            checkpoint.save(manager, step, state)
    manager.wait_until_finished()
    assert sorted(manager.all_steps()) == [4, 6]
    restored = checkpoint.restore(manager, state)
    assert int(restored.step) == 6
    np.testing.assert_array_equal(restored.params['w'], np.full((512, 512), 6.0))
    np.testing.assert_array_equal(restored.opt_state[0], np.full((512, 512), 7.0))


def test_restores_onto_another_mesh(tmp_path):
    one = one_device_mesh(4)
    four = sharding.make_mesh({'data': 2, 'fsdp': 2}, 4, jax.devices()[:4])
    manager = checkpoint.open_manager(tmp_path, keep=1)
    checkpoint.save(manager, 1, state_of(3.0, one))
    manager.wait_until_finished()
    restored = checkpoint.restore(manager, state_of(0.0, four))
    assert len(restored.params['w'].sharding.device_set) == 4
    assert restored.params['w'].sharding.spec == sharding.PartitionSpec('fsdp', None)
    np.testing.assert_array_equal(restored.params['w'], np.full((512, 512), 3.0))
