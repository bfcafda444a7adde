"""The folder of a run: whose it is, and what is refused."""

import copy
import json

import pytest

from configs import base
from pgs.errors import UserError
from pgs.run import workdir
from pgs.utils.files import absolute

CONFIG = {'seed': 0, 'log_every': 10, 'data': {'name': 'x', 'scale': (0.9, 1.0)}}


def test_a_new_folder_gets_the_config(tmp_path):
    made = tmp_path / 'a' / 'b'
    workdir.prepare(made, CONFIG)
    assert json.loads((made / 'config.json').read_text())['data']['scale'] == [0.9, 1.0]
    assert [p.name for p in made.iterdir()] == ['config.json']


def test_the_same_config_comes_back(tmp_path):
    workdir.prepare(tmp_path, CONFIG)
    workdir.prepare(tmp_path, CONFIG | {'log_every': 1})
    assert json.loads((tmp_path / 'config.json').read_text())['log_every'] == 1


def test_addresses_and_home_are_understood(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert str(absolute('gs://bucket/runs/a')) == 'gs://bucket/runs/a'
    assert str(absolute('~/run')) == str(tmp_path / 'run')
    assert absolute('run').is_absolute()


def test_another_config_is_refused_by_its_keys(tmp_path):
    workdir.prepare(tmp_path, CONFIG)
    before = (tmp_path / 'config.json').read_bytes()
    with pytest.raises(UserError, match=r'config\.data\.name: x there, y here.*another --workdir'):
        workdir.prepare(tmp_path, CONFIG | {'data': {'name': 'y', 'scale': (0.9, 1.0)}})
    with pytest.raises(UserError, match=r'config\.seed: 0 there, \(none\) here'):
        workdir.prepare(tmp_path, {k: v for k, v in CONFIG.items() if k != 'seed'})
    assert (tmp_path / 'config.json').read_bytes() == before


def test_checkpoints_of_nobody_are_refused(tmp_path):
    (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
    with pytest.raises(UserError, match=r'no config\.json'):
        workdir.prepare(tmp_path, CONFIG)


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(UserError, match='cannot write'):
            workdir.prepare(path, CONFIG)
    assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_without_room_is_refused():
    with pytest.raises(UserError, match='cannot write'):
        workdir.prepare('/proc/run', CONFIG)


@pytest.mark.parametrize('content', [b'{"seed"', b'\xff\xfe', b'[]', b''])
def test_a_broken_config_file_is_named(tmp_path, content):
    """The remedy does not give a run with checkpoints up."""
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(UserError, match=r'cannot read .*config\.json.*: move it away'):
        workdir.prepare(tmp_path, CONFIG)
    (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
    with pytest.raises(UserError, match=r'cannot read .*pgs\.checkpoint restore-config'):
        workdir.prepare(tmp_path, CONFIG)
    assert (tmp_path / 'config.json').read_bytes() == content


def test_a_deleted_config_of_a_run_with_checkpoints_can_be_restored(tmp_path):
    (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
    with pytest.raises(UserError, match=r'no config\.json: `python -m pgs\.checkpoint restore-c'):
        workdir.prepare(tmp_path, CONFIG)


@pytest.mark.parametrize('name', ['config.json', 'metrics.jsonl', 'results.json'])
def test_a_folder_in_place_of_a_file_is_one_line(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf'{name} is a folder, and a run keeps a file there: move'):
        workdir.prepare(tmp_path, CONFIG)


@pytest.mark.parametrize('name', ['checkpoints', 'figures', 'profile', 'checkpoints_damaged'])
def test_a_file_in_place_of_a_folder_is_one_line(tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(UserError, match=rf'{name} is a file, and a run keeps a folder there: move'):
        workdir.prepare(tmp_path, CONFIG)
    assert (tmp_path / name).read_text() == 'mine'


def test_a_key_that_is_newer_than_the_run_may_have_its_default_only(tmp_path):
    config = base.get_config().to_dict()
    older = copy.deepcopy(config)
    del older['masking']['until'], older['optimizer']['tail_warmup_steps']
    workdir.prepare(tmp_path, older)
    workdir.prepare(tmp_path, config)
    (tmp_path / 'config.json').write_text(json.dumps(older))
    config['masking']['until'] = 0.9
    with pytest.raises(UserError, match=r'config\.masking\.until: 1\.0 there, 0\.9 here'):
        workdir.prepare(tmp_path, config)
