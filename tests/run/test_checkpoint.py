"""Checkpoints: what was saved comes back, and what is damaged is named and not used."""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import one_device_mesh

from pgs import sharding
from pgs.errors import UserError
from pgs.run import checkpoint
from pgs.step import TrainState
from pgs.utils.files import absolute


def state_of(value, mesh):
    leaf = jnp.full((512, 512), value)
    state = TrainState(jnp.int32(value), {'w': leaf}, (leaf + 1,))
    return jax.device_put(state, sharding.state_sharding(mesh, state))


def random_state(step, *, seed=0):
    """A state that does not compress, 2 MB, on one device."""
    leaf = jax.random.normal(jax.random.key(seed), (512, 512))
    return TrainState(jnp.int32(step), {'w': leaf}, (leaf + 1,))


def save_three(workdir, config):
    """Makes the folder of a run with checkpoints of steps 2, 4 and 6; returns it."""
    workdir.mkdir()
    (workdir / 'config.json').write_text(json.dumps(config))
    with checkpoint.open_manager(workdir / 'checkpoints', keep=3) as manager:
        for step in (2, 4, 6):
            checkpoint.save(manager, step, random_state(step, seed=step))
    return workdir


@pytest.fixture(scope='module')
def three_saved(tmp_path_factory):
    return save_three(tmp_path_factory.mktemp('runs') / 'run', {'seed': 3})


@pytest.fixture
def run(three_saved, tmp_path):
    shutil.copytree(three_saved, tmp_path / 'run')
    return absolute(tmp_path / 'run')


def largest_file(folder):
    return max((p for p in Path(folder).rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def cut(folder):
    file = largest_file(folder)
    os.truncate(file, file.stat().st_size // 2)


def remove(folder):
    largest_file(folder).unlink()


def remove_state(folder):
    shutil.rmtree(folder / 'default')


def remove_checksums(folder):
    (folder / 'default' / 'checksums.json').unlink()


def garbage(folder):
    file = largest_file(folder)
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def change_64_bytes(folder):
    file = largest_file(folder)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = np.random.default_rng(0).bytes(64)
    file.write_bytes(content)


def spoil(name):
    def damage(folder):
        (folder / name).write_bytes(b'\xff\x00 no JSON')

    damage.__name__ = f'spoil {name}'
    return damage


DAMAGES = (
    empty,
    cut,
    remove,
    remove_state,
    remove_checksums,
    garbage,
    change_64_bytes,
    *map(spoil, ('_CHECKPOINT_METADATA', 'default/_METADATA', 'default/checksums.json')),
)


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


def test_restores_onto_a_mesh_with_zero_and_back(tmp_path):
    one, four = one_device_mesh(4), {'data': 1, 'zero': 2, 'fsdp': 2}
    split = sharding.make_mesh(four, 4, jax.devices()[:4])
    for number, (saved, restored) in enumerate(((one, split), (split, one))):
        with checkpoint.open_manager(tmp_path / str(number), keep=1) as manager:
            checkpoint.save(manager, 1, state_of(3.0, saved))
            manager.wait_until_finished()
            state = checkpoint.restore(manager, state_of(0.0, restored))
        np.testing.assert_array_equal(state.opt_state[0], state_of(3.0, one).opt_state[0])
        parts = [
            x.size // x.addressable_shards[0].data.size
            for x in (state.params['w'], state.opt_state[0])
        ]
        assert parts == ([4, 4] if restored is split else [1, 1])


def test_checkpoints_of_multiples_are_kept_as_well(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=1, keep_every=4) as manager:
        for step in (2, 4, 6, 8, 10):
            checkpoint.save(manager, step, random_state(step))
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [4, 8, 10]


@pytest.mark.parametrize(
    ('name', 'kept'), [('eval/val_loss', [4, 10]), ('eval/recall', [2, 10]), ('eval/none', [10])]
)
def test_the_best_is_kept_as_well(tmp_path, name, kept):
    scores = {2: (3.0, 0.9), 4: (1.0, 0.1), 6: (2.0, 0.5), 8: (float('nan'), float('nan'))}
    lines = [
        json.dumps({'step': step, 'eval/val_loss': loss, 'eval/recall': recall}) + '\n'
        for step, (loss, recall) in scores.items()
    ]
    (tmp_path / 'metrics.jsonl').write_text(''.join(lines))
    with checkpoint.open_manager(tmp_path / 'checkpoints', keep=1, best=name) as manager:
        for step in (2, 4, 6, 8, 10):
            checkpoint.save(manager, step, random_state(step))
    assert sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir()) == kept


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_used(run, damage, capsys):
    damage(run / 'checkpoints' / '6')
    checkpoint.set_damaged_aside(run)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f'warning: checkpoint {run / "checkpoints" / "6"} is damaged (')
    assert line.endswith(f'moved to {run / "checkpoints_damaged" / "6"}, and step 4 is used')
    assert (run / 'checkpoints_damaged' / '6').is_dir()
    manager = checkpoint.open_manager(run / 'checkpoints', keep=3)
    restored = checkpoint.restore(manager, random_state(0))
    np.testing.assert_array_equal(restored.params['w'], random_state(4, seed=4).params['w'])
    checkpoint.save(manager, 6, restored)
    checkpoint.wait(manager)
    assert checkpoint.newest_intact(run) == (6, {})


def test_two_damaged_ones_and_an_earlier_visit(run):
    (run / 'checkpoints_damaged' / '6').mkdir(parents=True)
    for step in (4, 6):
        change_64_bytes(run / 'checkpoints' / str(step))
    checkpoint.set_damaged_aside(run)
    assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2']
    aside = sorted(p.name for p in (run / 'checkpoints_damaged').iterdir())
    assert aside == ['4', '6', '6-2']


def test_without_an_intact_checkpoint_nothing_is_moved(run):
    for step in (2, 4, 6):
        garbage(run / 'checkpoints' / str(step))
    with pytest.raises(UserError, match=r'no checkpoint in .* is intact \(6: .*; 4: .*; 2: .*\)'):
        checkpoint.set_damaged_aside(run)
    assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['2', '4', '6']


def test_a_newer_format_is_no_damage(run):
    path = run / 'checkpoints' / '6' / '_CHECKPOINT_METADATA'
    content = json.loads(path.read_text())
    content['custom_metadata']['pgs_format'] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='has format 99, this program reads up to 1'):
        checkpoint.set_damaged_aside(run)


def test_checkpoints_without_checksums_are_read_and_checked_for_missing_parts(tmp_path):
    """Runs of the versions before, which wrote neither checksums nor a format."""
    with ocp.CheckpointManager(tmp_path / 'checkpoints') as manager:
        for step in (2, 4):
            manager.save(step, args=ocp.args.StandardSave(random_state(step)))
    assert checkpoint.newest_intact(tmp_path) == (4, {})
    cut(tmp_path / 'checkpoints' / '4')
    assert checkpoint.newest_intact(tmp_path)[0] == 2


def test_a_checkpoint_of_other_arrays_is_named_and_not_set_aside(run):
    checkpoint.set_damaged_aside(run)
    other = TrainState(jnp.int32(0), {'v': jnp.zeros((3, 3))}, (jnp.zeros(3),))
    manager = checkpoint.open_manager(run / 'checkpoints', keep=3)
    with pytest.raises(UserError, match=r'checkpoints/6 does not fit this run'):
        checkpoint.restore(manager, other)
    assert (run / 'checkpoints' / '6').is_dir()


@pytest.mark.parametrize('part', ['params', 'opt_state'])
def test_nothing_is_saved_of_a_state_that_is_not_finite(run, part):
    state = random_state(8)
    bad = state.params['w'].at[17, 3].set(np.nan if part == 'params' else np.inf)
    state = state.replace(**{part: {'w': bad} if part == 'params' else (bad,)})
    manager = checkpoint.open_manager(run / 'checkpoints', keep=2)
    with pytest.raises(UserError, match=r'not finite after step 8: the run diverged.*step 6 is'):
        checkpoint.save(manager, 8, state)
    assert checkpoint.newest_intact(run) == (6, {})
    assert not (run / 'checkpoints' / '8').exists()


def save_completely(manager, step):
    checkpoint.save(manager, step, random_state(step))
    checkpoint.wait(manager)


@contextlib.contextmanager
def no_file_larger_than(size):
    """As a full disk: writes fail in the file system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(run, caplog, capfd):
    manager = checkpoint.open_manager(run / 'checkpoints', keep=1)
    message = r'cannot write a checkpoint.*File too large.*step 6 is complete'
    with no_file_larger_than(20_000), pytest.raises(UserError, match=message):
        save_completely(manager, 8)
    assert checkpoint.newest_intact(run) == (6, {})
    assert 'Traceback' not in caplog.text + capfd.readouterr().err


def test_a_folder_that_goes_away_is_one_line(run):
    manager = checkpoint.open_manager(run / 'checkpoints', keep=1)
    (run / 'checkpoints').rename(run / 'elsewhere')
    (run / 'checkpoints').write_text('a file')
    with pytest.raises(UserError, match=r'cannot write a checkpoint'):
        save_completely(manager, 8)
