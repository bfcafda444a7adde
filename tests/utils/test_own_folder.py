"""Temporary folders: one a process, deleted at its end, or by the next one if it was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgs.utils import own_folder

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from pathlib import Path
from pgs.utils.own_folder import OwnFolder
folder = OwnFolder(Path(sys.argv[1]))
(folder.path / 'file').write_text('x')
print(folder.path, flush=True)
time.sleep(float(sys.argv[2]))
"""


def started(parent, seconds):
    """A process with a folder: (process, folder)."""
    command = [sys.executable, '-c', PROGRAM, str(parent), str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_nothing_for_long_and_a_running_one_keeps_its_own(tmp_path, capsys):
    process, theirs = started(tmp_path, 60)
    try:
        mine = own_folder.OwnFolder(tmp_path)
        assert (theirs / 'file').exists()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        own_folder.remove_leftovers(tmp_path)
        assert f'Deletes {theirs}, which a process that was killed' in capsys.readouterr().out
        assert not theirs.exists()
        assert mine.path.exists()
    finally:
        process.kill()
    mine.close()
    assert os.listdir(tmp_path) == []


def test_it_is_deleted_at_the_end_of_the_process(tmp_path):
    process, folder = started(tmp_path, 0)
    assert folder.parent == tmp_path
    process.communicate()
    assert os.listdir(tmp_path) == []


def test_a_parent_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'Not a directory|File exists'):
        own_folder.OwnFolder(tmp_path / 'file' / 'folder')
