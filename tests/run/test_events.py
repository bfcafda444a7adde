"""TensorBoard's events: a failure costs events and nothing else."""

from clu import metric_writers

from pgs.run.metrics import MetricLog
from pgs.run.metrics_file import read_metrics


def test_a_full_disk_ends_nothing_and_is_reported_once(tmp_path, monkeypatch, capsys):
    def fail(self, step, scalars):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(metric_writers.SummaryWriter, 'write_scalars', fail)
    log = MetricLog(tmp_path)
    for step in range(1, 6):
        log.write(step, {'loss': 1.0})
    log.close()
    assert [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2, 3, 4, 5]
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith('warning: cannot write events for TensorBoard in ')
    assert 'No space left on device' in first
    assert all('writes for TensorBoard failed' in line for line in rest)
    assert len(rest) <= 1


def test_a_folder_without_space_for_a_new_file(tmp_path, monkeypatch, capsys):
    def fail(folder):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(metric_writers, 'SummaryWriter', fail)
    log = MetricLog(tmp_path)
    log.write(1, {'loss': 1.0})
    log.close()
    assert 'No space left' in capsys.readouterr().out
    assert len(read_metrics(tmp_path / 'metrics.jsonl')) == 1
