"""Signals and the limit on closing, in small processes without JAX; see tests/test_main.py too."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import atexit, hashlib, math, os, signal, sys, threading, time
from pgs.utils import cli, exits, phases
exits.install()
def blocked():  # Python's handler cannot run meanwhile, as in a compilation
    print('ready', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
def idle():
    print('ready', flush=True)
    time.sleep(60)
"""

MAIN = """
def main(argv):
    try:
        {}
    except exits.Stopped as stopped:
        print(stopped)
        sys.exit(exits.STOPPED)
"""


def run(program: str, *signals: int) -> tuple[int, str, str, float]:
    """(exit status, stdout after 'ready', stderr, seconds since the signals or 'ready')."""
    process = subprocess.Popen(
        [sys.executable, '-c', HEAD + program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'ready\n', process.stderr.read()
    clock = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - clock


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('work', ['idle', 'blocked'])
@pytest.mark.parametrize('phase', ['start', 'compile'])
def test_a_signal_ends_the_process_with_one_line(number, work, phase):
    """In the phase 'start' as well, which is the imports: there is no `cli.run` around them yet."""
    program = f'{work}()'
    if phase != 'start':
        program = (
            MAIN.format(f"phases.enter('compile'); phases.set_outcome('nothing is lost'); {work}()")
            + 'cli.run(main)'
        )
    code, out, err, seconds = run(program, number)
    assert code == 130
    doing = {'start': 'starting (imports and devices): nothing was started'}
    assert out == f'stopped while {doing.get(phase, "compiling: nothing is lost")}\n'
    assert err == ''
    assert seconds < 10


def test_a_step_that_runs_is_waited_for():
    """Until a second signal. The loop's own handler only notes the first one."""
    program = (
        MAIN.format('step()')
        + """
def step():
    phases.enter('step', patience=math.inf)
    outer = signal.signal(signal.SIGTERM, lambda *args: signal.signal(signal.SIGTERM, outer))
    print('ready', flush=True)
    end = time.monotonic() + 7
    while time.monotonic() < end:
        time.sleep(0.1)
    print('saved')
    sys.exit(130)
cli.run(main)"""
    )
    assert run(program, signal.SIGTERM)[:3] == (130, 'saved\n', '')
    code, out, err, seconds = run(program, signal.SIGTERM, signal.SIGTERM)
    assert (code, out, err) == (
        130,
        'stopped while computing a train step: nothing was started\n',
        '',
    )
    assert seconds < 5


@pytest.mark.parametrize(
    'stuck',
    [
        'threading.Thread(target=idle).start()',  # as an executor whose call never returns
        'atexit.register(idle)',
        'class Stuck:\n  def __del__(self): idle()\nsys.stuck = Stuck(); print("ready")',
    ],
)
def test_the_error_line_is_the_last_one_and_the_process_ends(stuck):
    program = f"""
from pgs.errors import UserError
{stuck}
def main(argv):
    raise UserError('the disk is full')
cli.run(main)"""
    code, out, err, seconds = run(program)
    assert (code, out, err) == (1, '', 'error: the disk is full\n')
    assert seconds < 10


def test_an_error_of_closing_does_not_replace_the_first_one():
    program = """
from pgs.errors import UserError
class Stuck:
    def close(self): raise OSError('second')
def main(argv):
    print('ready', flush=True)
    with exits.closed(Stuck()):
        raise UserError('first')
cli.run(main)"""
    assert run(program)[:3] == (1, '', 'error: first\n')
