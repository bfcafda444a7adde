"""A run repeated from its folder: equal bit by bit, and what is reported where it is not."""

import json
import shutil

import pytest
from conftest import shrunk_quickstart
from programs import load_program, run_program

from pgs.errors import Stopped, UserError
from pgs.train import train


@pytest.fixture(scope='module')
def stopped_run(tmp_path_factory):
    """Three of six steps, as after an interrupt."""
    workdir = tmp_path_factory.mktemp('runs') / 'first'
    with pytest.raises(Stopped, match='stopped at step 3 of 6'):
        train(shrunk_quickstart(total_steps=6), workdir, last_step=3)
    return workdir


load_program('pgs.reproduce')


def run(*arguments):
    run_program('pgs.reproduce', '--steps=3', *arguments)


def test_each_start_is_recorded(stopped_run):
    (start,) = json.loads((stopped_run / 'environment.json').read_text())['starts']
    assert start['step'] == 0
    assert start['packages']['jax']
    assert start['config']['total_steps'] == 6
    assert start['data'][0]['pairs'] == 3529
    assert len(start['data'][0]['sha256']) == 64
    assert start['python'].count('.') == 2


def test_the_metrics_are_equal_bit_by_bit(stopped_run, capsys):
    run(stopped_run)
    out = capsys.readouterr().out
    assert '3 lines of metrics up to step 3 are equal bit by bit' in out
    assert 'differs' not in out


def test_differences_are_named(stopped_run, tmp_path, capsys):
    folder = tmp_path / 'other'
    shutil.copytree(stopped_run, folder)
    recorded = json.loads((folder / 'environment.json').read_text())
    recorded['starts'][0]['packages']['jax'] = '0.0.1'
    (folder / 'environment.json').write_text(json.dumps(recorded))
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    changed = json.loads(lines[-1])
    changed['loss'] += 1e-9
    (folder / 'metrics.jsonl').write_text('\n'.join([*lines[:-1], json.dumps(changed)]) + '\n')
    with pytest.raises(UserError, match=r'the metrics differ: step 3, loss: '):
        run(folder)
    assert 'differs: packages.jax: 0.0.1 there' in capsys.readouterr().out


def test_bad_folders(tmp_path, stopped_run):
    with pytest.raises(UserError, match=r'cannot read .*config\.json.*give the folder of a run'):
        run(tmp_path)
    with pytest.raises(UserError, match='give the folder of one run'):
        run()
    (tmp_path / 'environment.json').write_text('[]')
    from pgs.run.provenance import read_starts

    with pytest.raises(UserError, match=r'environment\.json .*move it away'):
        read_starts(tmp_path)
