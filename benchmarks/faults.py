"""The faults of benchmarks.chaos: a tiny run that is started and disturbed, and damage to its files."""

import random
import resource
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.tiny_run import tiny_run

ROOT = Path(__file__).parents[1]
SILENCE = 15.0  # seconds without progress after which a run with a stalled reader ends
PATIENCE = 60.0  # seconds that a process may take to end after its fault


class Ending(NamedTuple):
    """How a process ended."""

    status: int | None  # exit status, negative for a signal; None: it did not end and was killed
    last_line: str  # of stderr, or of stdout where stderr is empty


def command(workdir: Path, steps: int) -> list[str]:
    """The run: a tiny model, a line of metrics for every step, a checkpoint for every fifth."""
    return tiny_run(
        workdir, batch_size=8, total_steps=steps, log_every=1, checkpoint_every=5, eval_every=50
    )


# Runs main.py with a reader that waits for ever at one of its calls, as one on a dead mount does.
STALLED_READER = """
import runpy, sys, threading
from input_pipeline import pipeline
calls, read = [], pipeline.Reader.read
def stall(*arguments):
    calls.append(1)
    if len(calls) > {call}:
        threading.Event().wait()
    return read(*arguments)
pipeline.Reader.read = stall
sys.argv[0] = 'main.py'
runpy.run_path('main.py', run_name='__main__')
"""


def run(
    workdir: Path,
    steps: int,
    *,
    number: int | None = None,
    after: float = 0.0,
    largest_file: int | None = None,
    stalled_at: int | None = None,
) -> Ending:
    """Starts the run, and disturbs it.

    Args:
      workdir: its folder.
      steps: of the whole run.
      number: a signal to send, if any, `after` seconds.
      largest_file: bytes beyond which a write fails, as on a full disk.
      stalled_at: the read, counted from the start of the process, that never returns.
    """
    program = command(workdir, steps)
    if stalled_at is not None:
        script = STALLED_READER.format(call=stalled_at)
        program[1:2] = ['-c', script]
        program.append(f'--config.silence_limit={SILENCE}')

    # Through a pipe, since the limit on the size of files would hold for a log file as well.
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if largest_file is not None:  # Python ignores SIGXFSZ, so that the write fails
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    timer = threading.Timer(after, process.send_signal, [number])
    if number is not None:
        timer.start()
    ended = True
    try:
        output, _ = process.communicate(
            timeout=10 * PATIENCE if number is None else after + PATIENCE
        )
    except subprocess.TimeoutExpired:
        ended = False
        process.kill()
        output, _ = process.communicate()
    timer.cancel()
    workdir.with_suffix('.log').write_bytes(output)
    lines = output.decode(errors='replace').strip().splitlines()
    return Ending(process.returncode if ended else None, lines[-1] if lines else '')


def newest_checkpoint_file(workdir: Path, rng: random.Random) -> Path | None:
    """A random file with data of the newest complete checkpoint."""
    steps = [int(p.name) for p in (workdir / 'checkpoints').glob('*') if p.name.isdigit()]
    if not steps:
        return None
    folder = workdir / 'checkpoints' / str(max(steps))
    files = [p for p in sorted(folder.rglob('*')) if p.is_file() and p.stat().st_size]
    return rng.choice(files) if files else None


def damage_checkpoint(workdir: Path, rng: random.Random) -> bool:
    """Cuts, empties, removes or overwrites a file of the newest of at least two checkpoints."""
    checkpoints = [p for p in (workdir / 'checkpoints').glob('*') if p.name.isdigit()]
    path = newest_checkpoint_file(workdir, rng)
    if path is None or len(checkpoints) < 2:
        return False
    content = bytearray(path.read_bytes())
    kind = rng.choice(('cut', 'empty', 'remove', 'overwrite'))
    if kind == 'remove':
        path.unlink()
        return True
    if kind == 'overwrite':
        at = rng.randrange(len(content))
        content[at : at + 64] = rng.randbytes(len(content[at : at + 64]))
    else:
        del content[0 if kind == 'empty' else len(content) // 2 :]
    path.write_bytes(bytes(content))
    return True


def damage_metrics(workdir: Path, rng: random.Random) -> bool:
    """Cuts metrics.jsonl at a random byte, or writes random bytes at its end."""
    path = workdir / 'metrics.jsonl'
    if not path.is_file() or not (content := path.read_bytes()):
        return False
    if rng.random() < 0.5:
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        path.write_bytes(content + rng.randbytes(40))
    return True


# (workdir, rng, steps of the run, seconds that it takes undisturbed) -> (its end, right exit statuses);
# None if there is nothing to damage yet.
Fault = Callable[[Path, random.Random, int, float], tuple[Ending, tuple[int, ...]] | None]


def by_signal(number: signal.Signals, *expected: int) -> Fault:
    """A signal at a random moment; 0 is right as well, where the run ended before it."""

    def fault(workdir: Path, rng: random.Random, steps: int, seconds: float):
        ending = run(workdir, steps, number=number, after=rng.uniform(0.0, seconds))
        return ending, (0, *expected)

    return fault


def by_damage(damage: Callable[[Path, random.Random], bool]) -> Fault:
    """Damage while the run is down; then it goes on until it is killed at a random moment."""

    def fault(workdir: Path, rng: random.Random, steps: int, seconds: float):
        if not damage(workdir, rng):
            return None
        after = rng.uniform(0.3, 1.2) * seconds
        ending = run(workdir, steps, number=signal.SIGKILL, after=after)
        return ending, (0, -signal.SIGKILL)

    return fault


def full_disk(workdir: Path, rng: random.Random, steps: int, seconds: float):
    """No file may grow beyond a random size."""
    del seconds
    return run(workdir, steps, largest_file=int(10 ** rng.uniform(2.0, 6.0))), (0, 1)


def stalled_reader(workdir: Path, rng: random.Random, steps: int, seconds: float):
    """A reader never returns; the watchdog ends the run, unless it ends before that read."""
    del seconds
    return run(workdir, steps, stalled_at=rng.randrange(steps)), (0, 1)


FAULTS: dict[str, Fault] = {
    'SIGKILL': by_signal(signal.SIGKILL, -signal.SIGKILL),
    'SIGTERM': by_signal(signal.SIGTERM, 130),
    'SIGINT': by_signal(signal.SIGINT, 130),
    'full disk': full_disk,
    'stalled reader': stalled_reader,
    'damaged checkpoint': by_damage(damage_checkpoint),
    'damaged metrics': by_damage(damage_metrics),
}
