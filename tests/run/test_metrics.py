"""metrics.jsonl, the console line and the clock."""

import json

from pgs.run import metrics
from pgs.run.metrics import MetricLog, Progress, read_metrics
from pgs.utils.console import format_seconds


def test_times_as_people_read_them():
    assert [format_seconds(s) for s in (0, 9, 75, 3675)] == ['0:00', '0:09', '1:15', '1:01:15']


def test_resuming_takes_back_what_will_be_written_again(tmp_path):
    log = MetricLog(tmp_path, resume_step=0)
    for step in (0, 10, 20, 30):
        log.write(step, {'loss': 1.0 / (step + 1)})
    log.close()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 40, "lo')  # the run was killed here
    log = MetricLog(tmp_path, resume_step=20)
    log.write(30, {'loss': 0.5})
    log.close()
    records = read_metrics(tmp_path / 'metrics.jsonl')
    assert [r['step'] for r in records] == [0, 10, 20, 30]
    assert records[-1]['loss'] == 0.5


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricLog(tmp_path, resume_step=0)
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
    log = MetricLog(tmp_path, resume_step=0)
    log.write(1, {'loss': 0.25})
    assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 1, 'loss': 0.25}
    log.close()
