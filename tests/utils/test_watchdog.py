"""The watchdog, in small processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, sys, threading, time
from pgs.utils import phases, watchdog
watchdog.FIRST_SECONDS, watchdog.TICK_SECONDS = 0.5, 0.05
phases.set_outcome('the same command goes on at step 4')
"""


def run(program: str) -> tuple[int, list[str], str, float]:
    clock = time.monotonic()
    process = subprocess.run(
        [sys.executable, '-c', HEAD + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out = process.stdout.splitlines()
    return process.returncode, out, process.stderr, time.monotonic() - clock


STUCK = {
    'a named pipe': 'open({pipe!r}).read()',
    'a stalled reader': 'threading.Event().wait()',
    'a dead loader': 't = threading.Thread(target=lambda: 1 / 0); t.start(); '
    'import queue; queue.Queue().get()',
}


@pytest.mark.parametrize('reader', STUCK)
def test_a_reader_that_never_returns_ends_in_a_sentence(tmp_path, reader):
    pipe = tmp_path / 'shard'
    os.mkfifo(pipe)
    program = f"phases.enter('data'); watchdog.start(3.0)\n{STUCK[reader].format(pipe=str(pipe))}"
    code, out, err, seconds = run(program)
    assert code == 1
    assert len(out) >= 2  # after 0.5, 1 and 2 seconds
    assert all(line.startswith('warning: no progress for 0:0') for line in out)
    assert all(line.endswith('while reading data') for line in out)
    last = err.splitlines()[-1]
    assert last.startswith('error: no progress for 0:03 while reading data, which config.silence')
    assert last.endswith('the same command goes on at step 4')
    assert 'File "<string>"' in err  # where the main thread is
    assert seconds < 30


def test_a_compilation_is_named_and_not_ended():
    program = "phases.enter('compile'); watchdog.start(1.0); time.sleep(2.5)"
    code, out, err, _ = run(program)
    assert (code, err) == (0, '')
    assert all(line.endswith('while compiling') for line in out)
    assert len(out) >= 2


def test_progress_is_not_reported():
    program = """
watchdog.start(1.0)
phases.enter('score')
for _ in range(20):
    phases.progress()
    time.sleep(0.1)
"""
    assert run(program)[:3] == (0, [], '')
