"""One run a workdir: who gets the lock, who keeps it, and from whom it is taken."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_gcs
import pytest

from pgs.errors import UserError
from pgs.run import lock
from pgs.utils.files import absolute

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from etils import epath
from pgs.run import lock
with lock.hold(epath.Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""
COUNTER = """
import sys
from etils import epath
from pgs.errors import UserError
from pgs.run import lock
workdir = epath.Path(sys.argv[1])
done = 0
while done < 20:
    try:
        with lock.hold(workdir):
            number = int((workdir / 'count').read_text())
            (workdir / 'count').write_text(str(number + 1))
            done += 1
    except UserError:
        pass
"""


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(lock, 'BEAT_SECONDS', 0.1)
    monkeypatch.setattr(lock, 'DEAD_SECONDS', 0.6)
    monkeypatch.setattr(lock, 'POLL_SECONDS', 0.05)


@pytest.fixture
def workdir(tmp_path):
    return absolute(tmp_path / 'run')


@pytest.fixture
def other_process(workdir):
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate()


def content(workdir):
    return json.loads((workdir / 'lock.json').read_text())


def test_the_lock_names_its_holder_and_is_released(workdir):
    with lock.hold(workdir):
        holder = content(workdir)
        assert holder['pid'] == os.getpid()
        assert {'host', 'since', 'started'} <= set(holder)
        with pytest.raises(UserError, match=rf'is in use by process {os.getpid()} on .*since'):
            lock.Lock(workdir).acquire()
        assert content(workdir) == holder
    assert list(workdir.iterdir()) == []
    with pytest.raises(ZeroDivisionError), lock.hold(workdir):
        raise ZeroDivisionError
    assert list(workdir.iterdir()) == []


def test_a_running_process_keeps_it_and_a_killed_one_does_not(workdir, other_process, capsys):
    with pytest.raises(UserError, match=f'in use by process {other_process.pid} on'):
        lock.Lock(workdir).acquire()
    other_process.send_signal(signal.SIGKILL)  # it becomes a zombie, then it is gone
    while lock.start_time(other_process.pid) != 'zombie':
        time.sleep(0.01)
    with lock.hold(workdir):
        assert content(workdir)['pid'] == os.getpid()
    assert f'Took over the lock of process {other_process.pid}' in capsys.readouterr().out


def write_holder(workdir, **changes):
    workdir.mkdir()
    (workdir / 'lock.json').write_text(json.dumps(lock.myself() | changes))


def test_a_number_that_another_process_has_now_is_no_holder(workdir):
    write_holder(workdir, started='12')
    with lock.hold(workdir):
        assert content(workdir)['started'] != '12'


def test_a_process_number_that_is_gone(workdir):
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    write_holder(workdir, pid=gone.pid)
    with lock.hold(workdir):
        assert content(workdir)['pid'] == os.getpid()


@pytest.mark.parametrize('damaged', [False, True])
def test_a_silent_holder_on_another_machine_counts_as_dead(workdir, fast, capsys, damaged):
    write_holder(workdir, machine='elsewhere', host='tpu-7')
    if damaged:
        (workdir / 'lock.json').write_bytes(b'\xff{')
    start = time.monotonic()
    with lock.hold(workdir):
        assert 0.6 <= time.monotonic() - start < 5
    who = 'an unknown process' if damaged else f'process {os.getpid()} on tpu-7'
    assert f'Took over the lock of {who}' in capsys.readouterr().out


def test_a_holder_on_another_machine_whose_heart_beats_keeps_it(workdir, fast, monkeypatch):
    with lock.hold(workdir):
        monkeypatch.setattr(lock, 'machine', lambda: 'elsewhere')
        with pytest.raises(UserError, match='is in use by process'):
            lock.Lock(workdir).acquire()
        monkeypatch.undo()


def test_a_holder_that_lost_its_lock_stops(workdir, fast):
    with lock.hold(workdir) as held:
        held.check()
        (workdir / 'lock.json').write_text(json.dumps(lock.myself() | {'pid': 7, 'host': 'b'}))
        deadline = time.monotonic() + 5
        while not held.taken_by and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(UserError, match='taken by process 7 on b'):
            held.check()
    assert content(workdir)['pid'] == 7  # the other one's lock stays


def test_of_several_at_once_only_one_has_it(workdir):
    """Four processes get the lock 20 times each and add 1 to a number that it protects."""
    workdir.mkdir()
    (workdir / 'count').write_text('0')
    command = [sys.executable, '-c', COUNTER, str(workdir)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (workdir / 'count').read_text() == '80'


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(UserError, match='cannot write --workdir='):
        lock.Lock(absolute(tmp_path / 'file')).acquire()
    (tmp_path / 'run' / 'lock.json').mkdir(parents=True)
    with pytest.raises(UserError, match=r'cannot lock .*lock\.json'):
        lock.Lock(absolute(tmp_path / 'run')).acquire()


@pytest.fixture
def bucket(monkeypatch):
    """gs://bucket/run on a server of this machine."""
    server = fake_gcs.start()
    monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{server.server_port}')
    fake_gcs.Handler.objects.clear()
    yield absolute('gs://bucket/run')
    server.shutdown()
    server.server_close()


def test_a_bucket_is_locked_by_preconditions_on_generations(bucket, fast, capsys):
    objects = fake_gcs.Handler.objects
    with lock.hold(bucket) as held:
        first, content = objects['run/lock.json']
        assert json.loads(content)['pid'] == os.getpid()
        with pytest.raises(UserError, match=r'gs://bucket/run is in use by process'):
            lock.Lock(bucket).acquire()
        while objects['run/lock.json'][0] == first:  # until a heartbeat
            time.sleep(0.02)
        held.check()
    assert objects == {}
    objects['run/lock.json'] = 77, json.dumps(lock.myself() | {'machine': 'elsewhere'}).encode()
    fake_gcs.Handler.generations = 77
    with lock.hold(bucket) as held:
        assert 'Took over the lock' in capsys.readouterr().out
        fake_gcs.Handler.generations = 1000
        objects['run/lock.json'] = 1000, json.dumps(lock.myself() | {'pid': 7}).encode()
        while not held.taken_by:
            time.sleep(0.02)
        with pytest.raises(UserError, match='taken by process 7'):
            held.check()
    assert objects['run/lock.json'][0] == 1000  # the other one's lock stays


def test_of_several_at_once_only_one_has_a_bucket(bucket):
    inside, most, done = [], [], []

    def work():
        while done.count(threading.get_ident()) < 5:
            with contextlib.suppress(UserError), lock.hold(bucket):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
                done.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 20
    assert max(most) == 1


def test_other_addresses_are_not_locked():
    assert lock.open_store(absolute('s3://bucket/run')).url == 's3://bucket/run/'
    assert lock.open_store(absolute('az://bucket/run')) is None
