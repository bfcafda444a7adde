"""Feeds damaged and hostile input to everything that reads files, and looks for anything but an answer.

  python -m benchmarks.fuzz [--cases=10000] [--seed=0] [--targets=tar,json] [--out=runs/fuzz]

Each case is a valid input (benchmarks/fuzz_targets.py) with a few random changes, drawn from (seed,
target, number of the case). It must end with a result or with the error that the reader documents
(pgs.errors.UserError, which is one line), within SECONDS of processor time and GROWTH more bytes of address space. Anything else is a
finding: it is printed, its input is kept in --out, and the command exits with status 1.
"""

import collections
import faulthandler
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks.fuzz_targets import TARGETS, Target
from pgs.errors import UserError
from pgs.utils import cli
from pgs.utils.console import progress_bar

CASES = flags.DEFINE_integer('cases', 10_000, 'Number of cases, divided among the targets.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the random changes.')
ONLY = flags.DEFINE_list('targets', [], 'Names of targets, by comma; by default all.')
OUT = flags.DEFINE_string('out', 'runs/fuzz', 'Folder of the inputs of findings.')

SECONDS = 10  # of processor time, for one case
STUCK = 300  # seconds; a case that waits or runs outside of Python for so long ends the program
GROWTH = 2 * 1024**3  # bytes of address space above those at the start


class Slow(BaseException):
    """A case that takes too long; not an Exception, so that no reader catches it."""


class Outcome(NamedTuple):
    """What the cases of a target ended with."""

    values: int
    refusals: int
    seconds: float
    findings: list[tuple[int, str]]  # number of the case, last lines of the traceback


@contextmanager
def limits() -> Iterator[None]:
    """Bounds address space for all cases, and raises Slow when a timer that `one_case` sets ends."""

    def stop(*_):
        raise Slow(f'more than {SECONDS} seconds')

    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + GROWTH, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
        faulthandler.cancel_dump_traceback_later()


def case_input(target: Target, name: str, seeds: list[bytes], seed: int, number: int) -> bytes:
    """The input of a case; the same for the same arguments."""
    rng = random.Random(f'{seed} {name} {number}')
    return target.mutate(rng, rng.choice(seeds), seeds)


def one_case(target: Target, content: bytes, folder: Path) -> str:
    """'value', 'refusal', or the traceback of a finding."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(STUCK, exit=True, file=sys.__stderr__)
    try:
        target.run(content, folder)
    except target.refusals:
        return 'refusal'
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)  # the limit is not for what follows
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return 'value'


def fuzz(name: str, cases: int, seed: int, out: Path | None, first: int = 0) -> Outcome:
    """Runs the cases of a target.

    Args:
      name: of TARGETS.
      cases: number of cases.
      seed: of the changes.
      out: folder in which inputs of findings are kept; None: nowhere.
      first: number of the first case.
    """
    target, found, results = TARGETS[name], [], collections.Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, limits():
        folder = Path(temporary)
        seeds = target.seeds(folder)
        numbers = range(first, first + cases)
        for number in progress_bar(numbers, f'Fuzzing {name}', ' cases', cases):
            content = case_input(target, name, seeds, seed, number)
            result = one_case(target, content, folder)
            if result in ('value', 'refusal'):
                results[result] += 1
                continue
            found.append((number, result))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                (out / f'{name}-{seed}-{number}').write_bytes(content)
                (out / f'{name}-{seed}-{number}.txt').write_text(result, errors='replace')
    return Outcome(results['value'], results['refusal'], time.perf_counter() - start, found)


def share_of(name: str, names: list[str], cases: int) -> int:
    """The number of cases of a target, by its weight; at least one."""
    return max(1, round(cases * TARGETS[name].weight / sum(TARGETS[n].weight for n in names)))


def main(argv: list[str]) -> None:
    from benchmarks import common  # imports JAX

    del argv
    names = ONLY.value or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        raise UserError(f'--targets={unknown[0]} is unknown: take some of {", ".join(TARGETS)}')
    if CASES.value < 1:
        raise UserError(f'--cases={CASES.value} must be at least 1')
    out = Path(OUT.value)
    rows, summary, findings = [], {}, 0
    for name in names:
        outcome = fuzz(name, share_of(name, names, CASES.value), SEED.value, out)
        findings += len(outcome.findings)
        total = outcome.values + outcome.refusals + len(outcome.findings)
        summary[name] = outcome._asdict() | {'cases': total}
        rows.append(
            [
                name,
                str(total),
                str(outcome.values),
                str(outcome.refusals),
                str(len(outcome.findings)),
                f'{outcome.seconds:.0f}',
            ]
        )
        print(f'{name}: {total} cases, {len(outcome.findings)} findings', flush=True)
        for number, text in outcome.findings[:3]:
            print(f'finding: {name}, case {number}: {text.strip().splitlines()[-1][:300]}')
    print(common.table(['target', 'cases', 'values', 'refusals', 'findings', 'seconds'], rows))
    total = sum(s['cases'] for s in summary.values())
    print(f'{total} cases, seed {SEED.value}: {findings} findings')
    out.mkdir(parents=True, exist_ok=True)
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    sys.exit(1 if findings else 0)


if __name__ == '__main__':
    cli.run(main)
