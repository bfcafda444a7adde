"""A request to stop within the train loop, see tests/test_main.py for the other phases."""

import signal

import pytest

from pgs.errors import Stopped
from pgs.run import loop as loop_module
from pgs.run.metrics_file import read_metrics
from pgs.train import train


def test_a_signal_breaks_off_an_evaluation_and_the_state_is_saved(
    tiny_config, tmp_path, monkeypatch
):
    """The resumed run scores that step first: tests/test_survival.py."""
    tiny_config.update(evals=('held_out',), eval_every=3, checkpoint_every=100)
    reached = []

    def score(run, log, step, params):
        reached.append(step)
        signal.raise_signal(signal.SIGTERM)
        reached.append('end')

    monkeypatch.setattr(loop_module, 'score', score)
    saved = r'stopped at step 3 of 6, checkpoint saved \d\.\d s after the signal: the same command'
    with pytest.raises(Stopped, match=saved):
        train(tiny_config, tmp_path)
    assert reached == [3]
    assert (tmp_path / 'checkpoints' / '3').is_dir()
    assert [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2, 3]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
