"""python -m pgs.checkpoint: list, verify, prune, restore-config."""

import json
import shutil

import pytest
from test_checkpoint import change_64_bytes, empty, save_three

from pgs import checkpoint as command
from pgs.errors import UserError
from pgs.run import lock, stored
from pgs.utils.files import absolute

CONFIG = {'seed': 3, 'model': {'embed_dim': 8}}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    return save_three(tmp_path_factory.mktemp('runs') / 'run', CONFIG)


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'run')
    return absolute(tmp_path / 'run')


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_list_and_verify(run, capsys):
    command.main(['', 'list', str(run)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ['2', '4', '6']
    assert all('MB' in line and line.endswith('  checksums') for line in lines)
    command.main(['', 'verify', str(run)])
    assert capsys.readouterr().out.count('intact') == 3
    change_64_bytes(run / 'checkpoints' / '4')
    with pytest.raises(UserError, match=r'1 of 3 checkpoints are damaged: .*/4 \(the checksum'):
        command.main(['', 'verify', str(run)])


def test_prune_keeps_the_newest_intact_ones(run, capsys):
    empty(run / 'checkpoints' / '6')
    (run / 'checkpoints_damaged' / '8').mkdir(parents=True)
    assert any('damaged, in checkpoints_damaged/8' in x for x in stored.list_checkpoints(run))
    assert len(stored.prune(run, keep=1)) == 3
    assert names(run / 'checkpoints') == ['4']
    assert names(run / 'checkpoints_damaged') == []
    assert not (run / 'lock.json').exists()
    empty(run / 'checkpoints' / '4')
    with pytest.raises(UserError, match='nothing was deleted'):
        stored.prune(run, keep=1)
    assert names(run / 'checkpoints') == ['4']
    with pytest.raises(UserError, match='--keep=0'):
        stored.prune(run, keep=0)


def test_a_running_run_is_not_pruned(run):
    with lock.hold(run), pytest.raises(UserError, match='is in use by process'):
        stored.prune(run, keep=1)
    assert names(run / 'checkpoints') == ['2', '4', '6']


@pytest.mark.parametrize('content', [None, b'{"seed"', b'\xff\xfe', b'[]'])
def test_a_lost_config_is_restored(run, content):
    with pytest.raises(UserError, match='nothing was written'):
        stored.restore_config(run)
    (run / 'config.json').unlink()
    if content is not None:
        (run / 'config.json').write_bytes(content)
    assert 'as the checkpoint of step 6 holds it' in stored.restore_config(run)
    assert json.loads((run / 'config.json').read_text()) == CONFIG
    assert (run / 'config.json.damaged').exists() == (content is not None)


def test_without_a_copy_the_message_says_how_to_get_one(run):
    (run / 'config.json').unlink()
    for step in (2, 4, 6):
        (run / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA').unlink()
    with pytest.raises(UserError, match='with another --workdir writes the same'):
        stored.restore_config(run)


@pytest.mark.parametrize('arguments', [[], ['list'], ['remove', 'x'], ['list', '/nowhere']])
def test_mistakes_are_one_line(arguments):
    with pytest.raises(UserError, match='give'):
        command.main(['', *arguments])
