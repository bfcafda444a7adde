"""Weights & Biases as the tracker of a run: what arrives there, and that a failure ends nothing.

The last test needs requirements-wandb.txt; without it, it is skipped.
"""

import importlib.machinery
import json
import struct
import sys
import threading
import time
from pathlib import Path

import pytest
import small_wandb
from conftest import shrunk_quickstart
from PIL import Image

from pgs.errors import UserError
from pgs.run import tracker
from pgs.run.metrics import MetricLog
from pgs.run.metrics_file import read_metrics
from pgs.train import train
from pgs.utils.files import write_json

REAL = importlib.machinery.PathFinder.find_spec('wandb')
needs_wandb = pytest.mark.skipif(
    REAL is None or REAL.origin is None, reason='needs requirements-wandb.txt'
)


@pytest.fixture
def wandb(monkeypatch, tmp_path_factory):
    """A stand-in of the library."""
    return small_wandb.install(monkeypatch, tmp_path_factory.mktemp('pages'))


def log_three(workdir: Path, name='wandb') -> tracker.Tracker:
    """A log of three lines with a tracker; both are closed."""
    config = shrunk_quickstart(total_steps=3)
    config.tracker = name
    page = tracker.start(config, workdir)
    log = MetricLog(workdir, page)
    for step in (1, 2, 3):
        log.write(step, {'loss': 1.0 / step})
    log.close()
    page.close()
    assert [r['step'] for r in read_metrics(workdir / 'metrics.jsonl')] == [1, 2, 3]
    return page


def test_a_page_has_the_lines_of_the_log_and_is_continued(wandb, tmp_path, capsys):
    log_three(tmp_path)
    assert wandb.pages[0].lines == read_metrics(tmp_path / 'metrics.jsonl')
    assert wandb.pages[0].exit_code == 1  # no results: it was stopped
    first = wandb.pages[0].options
    assert first['config']['batch_size'] == 16
    assert (first['project'], first['name']) == ('clip-pgs', tmp_path.name)
    (tmp_path / 'metrics.jsonl').unlink()
    log_three(tmp_path)
    second = wandb.pages[1].options
    assert (second['id'], second['resume']) == (first['id'], 'allow')
    assert capsys.readouterr().out == 'Tracked by wandb in https://example.org/page\n' * 2


def test_no_network_no_login_or_a_full_disk_cost_one_warning(wandb, tmp_path, monkeypatch, capsys):
    def unreachable(**options):
        raise ConnectionError('no route to host\nwith details')

    with monkeypatch.context() as patch:
        patch.setattr(wandb, 'init', unreachable)
        assert log_three(tmp_path).failed == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('warning: the tracker failed (no route to host): the run goes on')

    (tmp_path / 'metrics.jsonl').unlink()
    with monkeypatch.context() as patch:
        patch.setattr(wandb, 'login', lambda **_: False)
        assert log_three(tmp_path).failed == 1
    assert 'no login: `wandb login`' in capsys.readouterr().out

    def full(self, line):
        raise OSError(28, 'No space left on device')

    (tmp_path / 'metrics.jsonl').unlink()
    monkeypatch.setattr(small_wandb.Page, 'log', full)
    assert log_three(tmp_path).failed == 3
    _, line, total = capsys.readouterr().out.splitlines()
    assert 'No space left on device' in line
    assert total == 'warning: 3 calls of the tracker failed, 0 were dropped'


def test_a_damaged_id_is_named_and_stays(wandb, tmp_path, capsys):
    (tmp_path / tracker.FILE).write_text('{')
    assert log_three(tmp_path).failed == 1
    assert tracker.FILE in capsys.readouterr().out
    assert not wandb.pages
    assert (tmp_path / tracker.FILE).read_text() == '{'


def test_a_service_that_does_not_answer_slows_nothing(wandb, tmp_path, monkeypatch, capsys):
    answer = threading.Event()
    monkeypatch.setattr(tracker, 'PATIENCE', 0.2)
    monkeypatch.setattr(tracker, 'WAITING', 2)
    monkeypatch.setattr(wandb, 'init', lambda **_: answer.wait(60))
    start = time.monotonic()
    log_three(tmp_path)
    assert time.monotonic() - start < 5
    answer.set()
    waiting, dropped = capsys.readouterr().out.splitlines()
    assert '`wandb sync`' in waiting
    assert dropped.endswith('2 were dropped')  # the third line, and the end


def test_an_absent_library_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    config = shrunk_quickstart(total_steps=2)
    config.tracker = 'wandb'
    with pytest.raises(UserError, match=r'pip install -r requirements-wandb\.txt'):
        train(config, tmp_path / 'run')
    config.tracker = 'wandbb'
    with pytest.raises(UserError, match="did you mean 'wandb'"):
        train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def records(path: Path) -> list:
    """The records of a .wandb file: blocks of 32 KiB with LevelDB's log format, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, found, pieces, at = path.read_bytes(), [], b'', 7
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no header fits into the rest of the block
            at += 2**15 - at % 2**15
            continue
        _, size, kind = struct.unpack_from('<IHB', content, at)
        pieces += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            found.append(wandb_internal_pb2.Record.FromString(pieces))
            pieces = b''
    return found


def complete(path: Path) -> list:
    """The records of a .wandb file once its last one is there; another process writes it."""
    for _ in range(600):
        found = records(path)
        if any(record.HasField('exit') for record in found):
            return found
        time.sleep(0.1)
    raise TimeoutError(path)


def named(items) -> dict:
    """Name -> value, of a record's items."""
    return {
        '/'.join(item.nested_key) or item.key: json.loads(item.value_json)
        for item in items
        if not (item.key or item.nested_key[0]).startswith('_')
    }


@needs_wandb
def test_a_stopped_and_resumed_run_offline(tmp_path, monkeypatch, capfd):
    """Metrics, config, figures and results are in the files that `wandb sync` sends."""
    for name in ('WANDB_PROJECT', 'WANDB_NAME', 'WANDB_DIR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setattr(tracker, 'PATIENCE', 120)  # for a machine with much else to do
    config = shrunk_quickstart(total_steps=3)
    config.tracker = 'wandb'
    workdir, results = tmp_path / 'run', {'step': 3, 'text_recall@5': 0.25, 'retention': None}
    (workdir / 'figures').mkdir(parents=True)
    write_json(workdir / 'results.json', results)
    for name in tracker.FIGURES:
        Image.new('RGB', (4, 3), 'white' if name == 'masks' else 'red').save(
            workdir / 'figures' / f'{name}.png'
        )
    lines = [{'eval/text_recall@5': 0.125}, {'loss': 3.5}, {'loss': 2.5}, {'loss': 1.5}]
    for steps in ((0, 1), (2, 3)):
        page = tracker.start(config, workdir)
        for step in steps:
            page.write(step, lines[step])
        if 3 in steps:
            page.finish(results, workdir)
        page.close()
    said = capfd.readouterr()
    assert (said.out.count('Tracked by wandb in'), said.out.count('\n'), said.err) == (2, 2, '')

    first, second = sorted(workdir.glob('wandb/offline-run-*'))
    name = json.loads((workdir / tracker.FILE).read_text())['wandb']
    parts = [complete(folder / f'run-{name}.wandb') for folder in (first, second)]
    logged, summary = [], {}
    for part in parts:
        (run,) = [r.run for r in part if r.HasField('run')]
        assert (run.run_id, run.project, run.display_name) == (name, 'clip-pgs', 'run')
        assert named(run.config.update)['masking'] == config.masking.to_dict()
        logged += [named(r.history.item) for r in part if r.HasField('history')]
        for record in part:
            summary |= named(record.summary.update)
    assert [r.exit.exit_code for part in parts for r in part if r.HasField('exit')] == [1, 0]
    assert logged[:-1] == [{'step': step} | line for step, line in enumerate(lines)]
    assert logged[-1]['step'] == 3
    assert summary['results/text_recall@5'] == 0.25
    assert json.loads((second / 'files' / 'results.json').read_text()) == results
    sent = {file.path for r in parts[1] for file in r.files.files}
    for name in tracker.FIGURES:
        assert logged[-1][f'figures/{name}/path'] in sent
    assert 'results.json' in sent
