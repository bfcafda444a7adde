"""A loss or gradient that is not finite skips the update; several in a row stop the run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import one_device_mesh

from input_pipeline import pipeline
from pgs import build as build_module
from pgs.build import build
from pgs.errors import UserError
from pgs.run import checkpoint, skips
from pgs.run.metrics_file import read_metrics
from pgs.run.skips import CHUNK, MEAN_STEPS, Skips, records_of
from pgs.step import init_state, keep_where_not_finite
from pgs.train import train


def test_the_step_keeps_parameters_and_moments(tiny_config):
    """Of a bad step; its number and the optimiser's counts go on."""
    job = build(tiny_config, total_steps=6, platform='cpu')
    state = init_state(job.model, job.optimizer, 0, one_device_mesh(16))
    batch = {
        'images': np.zeros((16, 32, 32, 3), np.uint8),
        'tokens': np.ones((16, 24), np.int32),
    }
    step = jax.jit(job.train_step)
    state, metrics = step(state, batch)
    assert np.isfinite([float(metrics['loss']), float(metrics['grad_norm'])]).all()
    bad = state.replace(params=state.params | {'logit_scale': jnp.float32(jnp.nan)})
    after, metrics = step(bad, batch)
    assert np.isnan(float(metrics['loss']))
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.params, bad.params)
    moments, before = after.opt_state[0], bad.opt_state[0]
    jax.tree.map(np.testing.assert_array_equal, (moments.mu, moments.nu), (before.mu, before.nu))
    assert int(moments.count) == 2


def test_an_update_is_taken_back_where_the_gradient_is_not_finite():
    """The others are those of the optimizer, bit by bit."""
    optimizer = optax.adamw(0.1, mask=lambda p: {'a': True, 'b': False})
    params = {'a': jnp.arange(4.0), 'b': jnp.float32(2.0)}
    before = optimizer.init(params)
    grads = {'a': jnp.array([1.0, jnp.nan, jnp.inf, -1.0]), 'b': jnp.float32(0.5)}
    updates, after = optimizer.update(grads, before, params)
    new = optax.apply_updates(params, updates)
    finite = jax.tree.map(jnp.isfinite, grads)
    kept, state = keep_where_not_finite(optimizer, finite, (new, after), (params, before))
    np.testing.assert_array_equal(kept['a'], [new['a'][0], 1.0, 2.0, new['a'][3]])
    assert kept['b'] == new['b'] != params['b']
    np.testing.assert_array_equal(
        state[0].mu['a'], [after[0].mu['a'][0], 0, 0, after[0].mu['a'][3]]
    )
    assert np.isfinite(state[0].nu['a']).all()
    assert int(state[0].count) == 1


@pytest.fixture
def bad_steps(monkeypatch):
    """A function that makes the loss of given steps NaN, within the compiled train step."""

    def poison(numbers):
        def make(*args, **kwargs):
            good = make_train_step(*args, **kwargs)

            def step(state, batch):
                bad = (state.step[None] + 1 == jnp.array(numbers)).any()
                poisoned = jax.tree.map(lambda p: jnp.where(bad, jnp.nan, p), state.params)
                after, metrics = good(state.replace(params=poisoned), batch)
                kept = jax.tree.map(lambda a, b: jnp.where(bad, b, a), after.params, state.params)
                return after.replace(params=kept), metrics

            return step

        monkeypatch.setattr(build_module, 'make_train_step', make)

    make_train_step = build_module.make_train_step
    return poison


def test_a_bad_step_is_skipped_and_counted(tiny_config, tmp_path, bad_steps):
    tiny_config.checkpoints_kept = 10
    bad_steps([2, 5, 6])
    results = train(tiny_config, tmp_path)
    records = read_metrics(tmp_path / 'metrics.jsonl')
    assert [r['step'] for r in records if 'loss' in r] == [1, 3, 4]
    assert [r['step'] for r in records if r.get('skipped')] == [2, 5, 6]
    assert [r['step'] for r in records] == sorted(r['step'] for r in records)
    assert results['step'] == 4
    assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()
    # Not after a bad step, but at the end of the run.
    saved = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
    assert saved == [4, 6]
    assert checkpoint.newest_intact(tmp_path)[0] == 6


def test_bad_steps_in_a_row_stop_the_run_with_a_report(tiny_config, tmp_path, bad_steps):
    tiny_config.log_every = tiny_config.checkpoint_every = 100
    bad_steps([1, 3, 4, 5])
    with pytest.raises(
        UserError, match=r'^3 steps in a row up to step 5 .*loss nan.*diverged; low'
    ):
        train(tiny_config, tmp_path)
    report = json.loads((tmp_path / 'diverged.json').read_text())['skipped in a row']
    assert [step['step'] for step in report] == [3, 4, 5]
    assert report[0]['loss'] == report[0]['grad_norm'] == 'nan'
    assert len(report[0]['records']) == 16
    assert all(r.startswith('record ') and 'openmoji-train' in r for r in report[0]['records'])
    assert [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 3, 4, 5]


class Numbered:
    """A source that notes what is read of it."""

    def __init__(self, name, source, length):
        self.name, self.source, self.length, self.read = name, source, length, []

    def __len__(self):
        return self.length

    def __getitems__(self, indices):
        self.read.append([self.location(i) for i in indices])
        return self.source.__getitems__(indices)

    def location(self, index):
        return f'record {index} of {self.name}'


def test_the_reported_records_are_those_of_the_batch(tiny_config, train_source):
    one, two = Numbered('one', train_source, 30), Numbered('two', train_source, 50)
    mixture = [(one, 1.0), (two, 3.0)]
    batches = pipeline.train_batches(
        mixture,
        seed=tiny_config.seed,
        batch_size=16,
        start_step=4,
        total_steps=5,
        image_size=32,
        context_length=24,
        crop_scale=(0.9, 1.0),
    )
    next(batches)
    batches.close()
    places = records_of(5, tiny_config, mixture)
    assert sorted(places) == sorted(one.read[0] + two.read[0])


class Log:
    def __init__(self):
        self.lines = []

    def write(self, step, scalars):
        self.lines.append((step, scalars))


def test_results_are_fetched_late_and_spikes_reported_rarely(tiny_config, capsys):
    """Not before as many later steps were dispatched, so that the device need not wait."""
    fetched = []
    followed = Skips(tiny_config, Log(), lambda steps: 'file')
    look, followed._look_at = followed._look_at, lambda s: (fetched.append(s.number), look(s))
    for step in range(1, 2 * MEAN_STEPS + 1):
        loss = 3.0 if step in (20, 60, 61, 99) else 1.0
        followed.add(step, {'loss': jnp.float32(loss), 'grad_norm': jnp.float32(1.0)})
        assert not fetched or fetched[-1] <= step - CHUNK
    followed.fetch_until(1000)
    assert fetched == list(range(1, 2 * MEAN_STEPS + 1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('warning: the loss of step 60 is 3.0000, more than 1 above the mean')


def test_an_overflowing_norm_counts_as_bad():
    assert skips.Step(1, 2.0, float('inf')).skipped
    assert not skips.Step(1, 2.0, 3.0).skipped
