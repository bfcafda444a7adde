"""A long run of a tiny model, with evaluations and checkpoints: memory, files and threads over time.

  python -m benchmarks.soak [--steps=20000] [--out=runs/benchmarks/soak.json]

Trains in a process of its own, in OUT's folder soak_run, and reads that process's counters from /proc
every five seconds. Prints their medians in each tenth of the time after the first tenth, in which
caches fill. Exit status 1 if one grows beyond its bound from the second tenth to the last.
Linux only.

The run has two malloc arenas at most. With glibc's own number, eight for each core, memory that was
freed stays in the arena of the thread that asked for it, and a leak cannot be told from that.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from absl import flags

from benchmarks import common
from benchmarks.tiny_run import tiny_run
from pgs.errors import UserError
from pgs.utils import cli
from pgs.utils.files import write_json

STEPS = flags.DEFINE_integer('steps', 20_000, 'Steps of the run.', lower_bound=100)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/soak.json', 'File of the figures.')
ROOT = Path(__file__).parents[1]
SECONDS = 5.0  # between two readings
TENTHS = 10
# Growth that is allowed from the second tenth to the last.
BOUNDS = {'memory MiB': 50.0, 'open files': 2, 'threads': 2}

Reading = dict[str, float]  # name of a counter -> value


def command(workdir: Path, steps: int) -> list[str]:
    """The run: a step takes milliseconds, and scores and checkpoints come often."""
    return tiny_run(
        workdir,
        batch_size=16,
        total_steps=steps,
        log_every=10,
        checkpoint_every=max(steps // 100, 1),
        eval_every=max(steps // 20, 1),
    )


def read_counters(pid: int) -> Reading:
    """Resident memory, open files and threads of a process.

    Raises:
      OSError: it has ended.
    """
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return {
        'memory MiB': pages * os.sysconf('SC_PAGE_SIZE') / 2**20,
        'open files': len(os.listdir(f'/proc/{pid}/fd')),
        'threads': len(os.listdir(f'/proc/{pid}/task')),
    }


def by_tenth(readings: list[Reading]) -> list[Reading]:
    """Medians of the counters in each tenth of the readings.

    Raises:
      UserError: fewer than ten readings.
    """
    if len(readings) < TENTHS:
        raise UserError(f'only {len(readings)} readings of {SECONDS:.0f} s each: take more --steps')
    edges = [len(readings) * i // TENTHS for i in range(TENTHS + 1)]
    parts = [readings[a:b] for a, b in itertools.pairwise(edges)]
    return [{name: statistics.median(r[name] for r in part) for name in BOUNDS} for part in parts]


def growing(tenths: list[Reading]) -> list[str]:
    """The counters that grew beyond their bound after the first tenth, in words."""
    return [
        f'{name}: from {tenths[1][name]:.0f} to {tenths[-1][name]:.0f}'
        for name, bound in BOUNDS.items()
        if tenths[-1][name] - tenths[1][name] > bound
    ]


def main(argv: list[str]) -> None:
    del argv
    workdir = Path(OUT.value).absolute().parent / 'soak_run'
    shutil.rmtree(workdir, ignore_errors=True)
    start, readings = time.perf_counter(), []
    environment = os.environ | {'MALLOC_ARENA_MAX': '2'}
    with subprocess.Popen(command(workdir, STEPS.value), cwd=ROOT, env=environment) as process:
        while process.poll() is None:
            time.sleep(SECONDS)
            try:
                readings.append(read_counters(process.pid))
            except OSError:
                break
    if process.returncode:
        raise UserError(f'the run ended with exit status {process.returncode}')
    tenths = by_tenth(readings)
    rows = [
        [str(i), *(f'{tenth[name]:.0f}' for name in BOUNDS)] for i, tenth in enumerate(tenths, 1)
    ]
    seconds = time.perf_counter() - start
    print(
        f'{STEPS.value} steps in {seconds / 60:.1f} min\n{common.table(["tenth", *BOUNDS], rows)}'
    )
    Path(OUT.value).parent.mkdir(parents=True, exist_ok=True)
    write_json(OUT.value, {'steps': STEPS.value, 'seconds': seconds, 'tenths': tenths})
    if found := growing(tenths):
        raise UserError(f'grew: {"; ".join(found)}')


if __name__ == '__main__':
    cli.run(main)
