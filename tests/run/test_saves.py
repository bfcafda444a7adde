"""Failed saves that a config allows: counted, and the good checkpoints stay."""

import pytest
from test_checkpoint import no_file_larger_than, random_state

from pgs.errors import UserError
from pgs.run import checkpoint
from pgs.run.saves import Saves
from pgs.utils.files import absolute

FULL = 20_000  # bytes, less than a state has


@pytest.fixture
def manager(tmp_path):
    with checkpoint.open_manager(absolute(tmp_path / 'run' / 'checkpoints'), keep=2) as manager:
        yield manager


def test_allowed_failures_are_counted_and_the_run_goes_on(manager, capsys):
    saves = Saves(manager, allowed=2)
    for step in (2, 4):
        saves.save(step, random_state(step))
    saves.settle()
    with no_file_larger_than(FULL):
        for step in (6, 8):
            saves.save(step, random_state(step))
        saves.settle()
    out = capsys.readouterr().out
    assert '1 failed in a row, 1 in all (config.failed_saves_allowed=2)' in out
    assert '2 failed in a row, 2 in all' in out
    assert 'The checkpoint of step 4 is complete' in out
    assert sorted(p.name for p in manager.directory.iterdir()) == ['2', '4']
    for step in (10, 12):
        saves.save(step, random_state(step))
    saves.save_last(14, random_state(14))
    checkpoint.wait(manager)
    assert sorted(int(p.name) for p in manager.directory.iterdir()) == [12, 14]
    assert capsys.readouterr().out == ''


def test_one_more_stops_the_run(manager):
    saves = Saves(manager, allowed=1)
    saves.save(2, random_state(2))
    saves.settle()
    with no_file_larger_than(FULL):
        saves.save(4, random_state(4))
        saves.save(6, random_state(6))
        with pytest.raises(UserError, match=r'cannot write a checkpoint.*step 2 is complete'):
            saves.save(8, random_state(8))


def test_none_is_allowed_by_default(manager):
    saves = Saves(manager, allowed=0)
    with no_file_larger_than(FULL):
        saves.save(2, random_state(2))
        with pytest.raises(UserError, match='cannot write a checkpoint'):
            saves.save(4, random_state(4))
