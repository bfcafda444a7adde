"""metrics.jsonl, the console line and the clock."""

import json

import pytest

from pgs.errors import UserError
from pgs.run import metrics
from pgs.run.metrics import MetricLog, Progress
from pgs.run.metrics_file import cut_back, read_metrics
from pgs.utils.console import format_seconds


def test_times_as_people_read_them():
    assert [format_seconds(s) for s in (0, 9, 75, 3675)] == ['0:00', '0:09', '1:15', '1:01:15']


def test_resuming_takes_back_what_will_be_written_again(tmp_path):
    log = MetricLog(tmp_path)
    for step in (0, 10, 20, 30):
        log.write(step, {'loss': 1.0 / (step + 1)})
    log.close()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 40, "lo')  # the run was killed here
    cut_back(tmp_path, resume_step=20, total_steps=100)
    log = MetricLog(tmp_path)
    log.write(30, {'loss': 0.5})
    log.close()
    records = read_metrics(tmp_path / 'metrics.jsonl')
    assert [r['step'] for r in records] == [0, 10, 20, 30]
    assert records[-1]['loss'] == 0.5


SCORED_0, TRAINED_1, TRAINED_2, SCORED_2, TRAINED_3, TRAINED_4, SCORED_4 = (
    b'{"step": 0, "eval/val_loss": 3.5}',
    b'{"step": 1, "loss": 3.0, "pairs_per_second": 1.25}',
    b'{"step": 2, "loss": 2.5, "pairs_per_second": 1.5}',
    b'{"step": 2, "eval/val_loss": 3.0}',
    b'{"step": 3, "loss": 2.0, "pairs_per_second": 1.5}',
    b'{"step": 4, "loss": 1.5, "pairs_per_second": 1.5}',
    b'{"step": 4, "eval/val_loss": 2.0}',
)
ALL = (SCORED_0, TRAINED_1, TRAINED_2, SCORED_2, TRAINED_3, TRAINED_4, SCORED_4)


@pytest.mark.parametrize(('resume', 'count'), [(0, 0), (1, 2), (2, 4), (3, 5), (4, 6)])
def test_a_resume_leaves_the_lines_of_an_unbroken_run(tmp_path, resume, count):
    """Of four steps, with scores at 0, 2 and 4; the run had ended before."""
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join(ALL) + b'\n')
    cut_back(tmp_path, resume_step=resume, total_steps=4)
    assert path.read_bytes() == b''.join(line + b'\n' for line in ALL[:count])


def test_lines_that_an_earlier_version_wrote_twice_are_kept_once(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join((SCORED_0, SCORED_0, TRAINED_1, SCORED_4, SCORED_4)))
    cut_back(tmp_path, resume_step=2, total_steps=4)
    assert path.read_bytes() == SCORED_0 + b'\n' + TRAINED_1 + b'\n'


def test_a_last_line_without_a_line_break_is_kept_if_it_is_complete(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join(ALL[:3]))
    cut_back(tmp_path, resume_step=2, total_steps=4)
    assert path.read_bytes() == b''.join(line + b'\n' for line in ALL[:3])


@pytest.mark.parametrize(
    'damaged',
    [
        b'\xff\xfe\x00',
        b'{"step": 1, "lo',
        b'[1, 2]',
        b'{"loss": 1}',
        b'{"step": "x"}',
        b'[' * 10**5,
    ],
)
def test_a_damaged_line_is_set_aside_and_those_after_it_stay(tmp_path, capsys, damaged):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join((SCORED_0, damaged, TRAINED_2, SCORED_2)) + b'\n')
    assert [r['step'] for r in read_metrics(path)] == [0, 2, 2]
    cut_back(tmp_path, resume_step=2, total_steps=4)
    assert path.read_bytes() == b'\n'.join((SCORED_0, TRAINED_2, SCORED_2)) + b'\n'
    assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == damaged + b'\n'
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('warning: 1 of 4 lines of')


def test_a_missing_file_or_a_folder_is_one_line_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r'metrics\.jsonl is missing.*or create an empty file'):
        cut_back(tmp_path, resume_step=2, total_steps=4)
    cut_back(tmp_path, resume_step=0, total_steps=4)
    (tmp_path / 'metrics.jsonl').unlink()
    (tmp_path / 'metrics.jsonl').mkdir()
    with pytest.raises(UserError, match=r'cannot read .*metrics\.jsonl'):
        cut_back(tmp_path, resume_step=2, total_steps=4)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    log = MetricLog(tmp_path)

    class Full:
        def write(self, text):
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(log, '_file', Full())
    with pytest.raises(UserError, match=r'cannot write .*metrics\.jsonl \(No space left'):
        log.write(1, {'loss': 1.0})


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricLog(tmp_path)
    log.write(5, {'loss': 2.5})
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()['tensors'] == ['loss']
    assert events.Tensors('loss')[0].step == 5


def test_rate_and_eta(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
    progress = Progress(start_step=10, total_steps=40, batch_size=8)
    assert progress.eta() == '?'
    now[0] += 4.0
    assert progress.update(20) == 20.0  # 10 steps of 8 pairs in 4 s
    assert progress.eta() == '0:08'
    line = progress.line(20, {'loss': 1.5, 'pairs_per_second': 20.0, 'mask_ratio': 0.45})
    assert line == 'step 20/40  loss 1.5000  20.0 pairs/s  masked 0.450  ETA 0:08'
    now[0] += 1.0
    assert progress.update(25) == 40.0
    assert progress.mean_rate() == 24.0


def test_lines_are_json(tmp_path):
    log = MetricLog(tmp_path)
    log.write(1, {'loss': 0.25})
    assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 1, 'loss': 0.25}
    log.close()
