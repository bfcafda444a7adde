"""What a run survives, end to end: crashes at any moment, damaged files, divergence, a second run."""

import json
import os
import shutil
import signal

import optax
import pytest
from conftest import shrunk_quickstart

from pgs import train as train_module
from pgs.convert.load import read
from pgs.errors import Stopped, UserError
from pgs.run import checkpoint, lock, opening, summary
from pgs.run.held_out import SCORE_NAMES
from pgs.run.metrics import MetricLog
from pgs.run.metrics_file import read_metrics
from pgs.train import train
from pgs.utils.checksums import write_checksums
from pgs.utils.files import absolute


@pytest.fixture(autouse=True, scope='module')
def _cheap_scores_and_figures():
    """Scores are a number that depends on the parameters, and no figures are drawn."""

    def scorer(embedder, source, masked_embedder=None):
        def score(params):
            norm = float(optax.tree.norm(params))
            return dict.fromkeys(SCORE_NAMES) | {'val_loss': norm, 'chance@5': 0.1}

        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, 'held_out_scorer', scorer)
        patch.setattr(train_module, 'is_smoke_test', lambda config, data: False)
        patch.setattr(summary, 'measure_retention', lambda *args: None)
        patch.setattr(summary, 'draw_masks', lambda *args: None)
        patch.setattr(summary, 'write_page', lambda *args: None)
        patch.setattr(summary.figures, 'curves_figure', lambda records: None)
        patch.setattr(summary.figures, 'save', lambda *args: None)
        yield


def small_config(total_steps=6):
    """Scored at its start, after steps 2 and 4, and at its end."""
    config = shrunk_quickstart(total_steps)
    config.evals, config.eval_every = ('held_out',), 2
    return config


def comparable(workdir):
    """metrics.jsonl without what a clock measured."""
    return [
        {k: v for k, v in record.items() if k != 'pairs_per_second'}
        for record in read_metrics(workdir / 'metrics.jsonl')
    ]


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    config = small_config()
    train(config, workdir)
    return config, workdir


@pytest.fixture
def finished(unbroken, tmp_path):
    """The config, and a copy of the finished run's folder."""
    config, workdir = unbroken
    shutil.copytree(workdir, tmp_path / 'run')
    return config, tmp_path / 'run'


class PowerCut(Exception):
    pass


# Names of what happens, in its order; a run is cut right after each one of them.
MOMENTS = (
    'line 0',  # the scores of the start
    'line 2',
    'save 2',  # its checkpoint is complete
    'line 5',
    'save 6',  # before the last scores
    'line 6, scores',  # before results.json
)


@pytest.mark.parametrize('moment', MOMENTS)
def test_a_cut_at_any_moment_leaves_no_trace_in_the_log(unbroken, tmp_path, monkeypatch, moment):
    config, workdir = unbroken
    write, save = MetricLog.write, checkpoint.save

    def note(name):
        if name == moment:
            raise PowerCut

    def cut_write(self, step, scalars):
        write(self, step, scalars)
        scores = ', scores' if step and 'loss' not in scalars else ''
        note(f'line {step}{scores}')

    def cut_save(manager, step, state):
        save(manager, step, state)
        checkpoint.wait(manager)
        note(f'save {step}')

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, 'write', cut_write)
        patch.setattr(checkpoint, 'save', cut_save)
        with pytest.raises(PowerCut):
            train(config, tmp_path / 'run')
    train(config, tmp_path / 'run')
    assert comparable(tmp_path / 'run') == comparable(workdir)


def test_a_finished_run_that_is_started_again_has_each_line_once(finished, unbroken):
    config, workdir = finished
    train(config, workdir)
    assert comparable(workdir) == comparable(unbroken[1])


def test_an_interrupt_at_a_step_that_is_scored(unbroken, tmp_path, monkeypatch):
    """It is not scored when the run stops, so it is scored when the run resumes."""
    config, workdir = unbroken
    calls = []

    def check(self):
        calls.append(1)
        if len(calls) == 3:  # after step 3, before its scores
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(lock.Lock, 'check', check)
        with pytest.raises(Stopped, match='step 3 of 6'):
            train(config, tmp_path / 'run')
    assert 'loss' in comparable(tmp_path / 'run')[-1]
    train(config, tmp_path / 'run')
    assert comparable(tmp_path / 'run') == comparable(workdir)


def flip_bytes(folder):
    file = max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(range(64))
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_costs_two_steps(finished, unbroken, capsys):
    config, workdir = finished
    flip_bytes(workdir / 'checkpoints' / '6')
    loaded = read(workdir)
    out = capsys.readouterr().out
    assert loaded.source.endswith('step 4')
    assert out.startswith(f'warning: checkpoint {workdir}/checkpoints/6 is damaged (the checksum')
    assert (workdir / 'checkpoints' / '6').is_dir()  # only the run itself moves it
    train(config, workdir)
    out = capsys.readouterr().out
    assert 'moved to' in out
    assert 'Resumes at step 4 of 6' in out
    assert comparable(workdir) == comparable(unbroken[1])


def test_without_an_intact_checkpoint_readers_and_the_run_say_so(finished):
    config, workdir = finished
    for step in (4, 6):
        shutil.rmtree(workdir / 'checkpoints' / str(step) / 'default')
    for use in (lambda: read(workdir), lambda: train(config, workdir)):
        with pytest.raises(UserError, match=r'no checkpoint in .* is intact \(6: .*; 4: '):
            use()
    assert not (workdir / 'checkpoints_damaged').exists()


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    """The loss diverges between two lines of the log."""
    config = shrunk_quickstart(total_steps=6)
    config.update(log_every=20, checkpoint_every=1)
    config.optimizer.update(peak_learning_rate=1e30, warmup_steps=0)
    with pytest.raises(UserError, match=r'3 steps in a row up to step 4 .* the run diverged'):
        train(config, tmp_path / 'run')
    assert checkpoint.newest_intact(tmp_path / 'run') == (1, {})
    assert [p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['1']


def test_a_second_run_in_the_folder_is_refused(finished):
    config, workdir = finished
    before = sorted(p for p in workdir.rglob('*') if p.name != lock.NAME)
    with lock.hold(absolute(workdir)):
        with pytest.raises(UserError, match='is in use by process'):
            train(config, workdir)
        assert sorted(p for p in workdir.rglob('*') if p.name != lock.NAME) == before
    assert not (workdir / lock.NAME).exists()


@pytest.mark.parametrize('left', [None, 0, 1, 100])
def test_lost_lines_come_back_from_the_checkpoint(finished, unbroken, left, capsys):
    """The log is deleted, or cut after some bytes."""
    config, workdir = finished
    shutil.rmtree(workdir / 'checkpoints' / '6')
    path = workdir / 'metrics.jsonl'
    path.unlink() if left is None else os.truncate(path, left)
    train(config, workdir)
    assert f'lines of {path} were lost: put back from ' in capsys.readouterr().out
    assert comparable(workdir) == comparable(unbroken[1])


def test_without_a_copy_a_lost_log_can_be_replaced_by_an_empty_one(finished):
    """As checkpoints of earlier versions are."""
    config, workdir = finished
    shutil.rmtree(workdir / 'checkpoints' / '6')
    folder = workdir / 'checkpoints' / '4' / 'default'
    (folder / 'metrics.jsonl').unlink()
    write_checksums(folder)
    (workdir / 'metrics.jsonl').unlink()
    with pytest.raises(UserError, match=r'metrics\.jsonl is missing.*resumes at step 4'):
        train(config, workdir)
    (workdir / 'metrics.jsonl').touch()
    train(config, workdir)
    records = comparable(workdir)
    assert [r['step'] for r in records if 'loss' in r] == [5, 6]
    assert json.loads((workdir / 'results.json').read_text())['step'] == 6
