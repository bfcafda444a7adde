"""Faults at random moments of a run; it must end as an undisturbed one does, bit by bit.

  python -m benchmarks.chaos [--rounds=100] [--seed=0] [--out=runs/chaos]

A tiny model is trained undisturbed once. Then a second run is disturbed in each round: by a signal at
a random moment between the first import and the last figure, by a disk that refuses to grow a file
beyond a random size, by a reader that never returns, or by damage to its newest checkpoint or its metrics while it is down. After each
fault the same command goes on. Whenever the run ends, its metrics.jsonl and its weights are compared
with the undisturbed ones, and the next run begins. Exit status 1 if a round fails. Linux only.
"""

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks.faults import FAULTS, Ending, run
from pgs.convert.orbax_folder import read_workdir
from pgs.errors import UserError
from pgs.utils import cli
from pgs.utils.console import format_seconds
from pgs.utils.files import absolute, write_json

ROUNDS = flags.DEFINE_integer('rounds', 100, 'Faults.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Of the faults and their moments.')
STEPS = flags.DEFINE_integer('steps', 150, 'Steps of the run.', lower_bound=10)
OUT = flags.DEFINE_string('out', 'runs/chaos', 'Folder, which is emptied first.')
MEASURED = 'pairs_per_second'  # by a clock


def wrong_ending(ending: Ending, expected: tuple[int, ...]) -> str | None:
    """What is wrong with the way a process ended, if anything."""
    if ending.status is None:
        return f'did not end; last line: {ending.last_line}'
    if ending.status not in expected:
        return f'exit status {ending.status}; last line: {ending.last_line}'
    if ending.status == 1 and not ending.last_line.startswith('error: '):
        return f'the last line is not the error: {ending.last_line}'
    return None


def differences(workdir: Path, reference: Path) -> str | None:
    """How a finished run differs from the undisturbed one, if it does."""
    ours, theirs = (metric_lines(folder) for folder in (workdir, reference))
    if ours != theirs:
        return (
            f'metrics.jsonl has {len(ours)} lines that are not the {len(theirs)} undisturbed ones'
        )
    weights = [jax.tree.leaves(read_workdir(absolute(f))[0]) for f in (workdir, reference)]
    if not all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)):
        return 'the weights differ'
    return None


def metric_lines(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without what a clock measured."""
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != MEASURED} for line in lines]


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value).absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    reference, workdir = out / 'undisturbed', out / 'disturbed'
    for _ in range(2):  # the second one has its programs in the compilation cache
        shutil.rmtree(reference, ignore_errors=True)
        start = time.perf_counter()
        if (ending := run(reference, STEPS.value)).status != 0:
            raise UserError(f'the undisturbed run failed: {ending.last_line}')
        seconds = time.perf_counter() - start
    print(f'The undisturbed run takes {seconds:.0f} s', flush=True)

    rng, failures, finished = random.Random(SEED.value), [], 0
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    for number in range(1, ROUNDS.value + 1):
        result = None
        while result is None:
            name = rng.choice(list(FAULTS))
            result = FAULTS[name](workdir, rng, STEPS.value, seconds)
        ending, expected = result
        counts[name] += 1
        problem = wrong_ending(ending, expected)
        if number == ROUNDS.value and ending.status != 0:
            ending = run(workdir, STEPS.value)
        if ending.status == 0:
            finished += 1
            problem = problem or differences(workdir, reference)
        if problem:
            failures.append({'round': number, 'fault': name, 'problem': problem})
            workdir.rename(out / f'failed_{number}') if workdir.exists() else None
        elif ending.status == 0:
            shutil.rmtree(workdir)
        remaining = (time.perf_counter() - start) / number * (ROUNDS.value - number)
        print(
            f'[{number}/{ROUNDS.value}] {name}: {problem or "good"}  '
            f'ETA {format_seconds(remaining)}',
            flush=True,
        )
    write_json(
        out / 'chaos.json', {'rounds': dict(counts), 'finished': finished, 'failures': failures}
    )
    good = ROUNDS.value - len(failures)
    print(f'{good} of {ROUNDS.value} rounds good, {finished} runs compared, {dict(counts)}')
    if failures:
        raise UserError(f'{len(failures)} rounds failed, see {out / "chaos.json"}')


if __name__ == '__main__':
    cli.run(main)
