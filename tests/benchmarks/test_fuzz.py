"""A minute's worth of fuzzing, and that the fuzzer notices what it looks for.

The cases run in a process of their own: the fuzzer limits the memory and the processor time of the
whole process, and a test worker has other tests' threads and memory in it.
"""

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from programs import load_benchmark

from pgs.errors import UserError

TARGETS = load_benchmark('fuzz_targets').TARGETS
Target = load_benchmark('fuzz_targets').Target
fuzz = load_benchmark('fuzz')
CASES = {'images': 40, 'safetensors': 15, 'config': 25}


@pytest.fixture(scope='module')
def process() -> Iterator[ProcessPoolExecutor]:
    """One process that runs a function at a time; each import is paid once."""
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as executor:
        yield executor


@pytest.mark.parametrize('name', TARGETS)
def test_hostile_input_ends_in_a_value_or_an_error_of_one_line(name, process):
    outcome = process.submit(fuzz.fuzz, name, CASES.get(name, 80), seed=0, out=None).result()
    assert not outcome.findings, outcome.findings[0]
    assert outcome.values + outcome.refusals == CASES.get(name, 80)


@pytest.mark.parametrize('number', [3710, 4436])
def test_parquet_that_was_a_finding(number, process):
    """A header that counts rows which are not there; an image beside the defect of its caption."""
    outcome = process.submit(fuzz.fuzz, 'parquet', 1, seed=7, out=None, first=number).result()
    assert not outcome.findings, outcome.findings[0]


def test_a_case_is_the_same_for_the_same_numbers(tmp_path):
    target = TARGETS['tsv']
    seeds = target.seeds(tmp_path)
    inputs = [fuzz.case_input(target, 'tsv', seeds, 3, n) for n in (5, 5, 6)]
    assert inputs[0] == inputs[1] != inputs[2]


def wait():
    while True:
        pass


def wait_and_catch():
    while True:
        with contextlib.suppress(Exception):
            wait()


FAULTS = {
    'ZeroDivisionError': lambda: 1 // 0,
    'Slow': wait,
    'more than': wait_and_catch,
    'MemoryError': lambda: np.ones(fuzz.GROWTH, np.int8).sum(),
    'RecursionError': lambda: FAULTS['RecursionError'](),
}


def refuse():
    raise UserError('one line')


def fuzz_with(run, seconds: float, cases: int, out: Path | None):
    """The outcome of a target that calls `run`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, 'SECONDS', seconds)
        patch.setitem(
            TARGETS, 'made', Target(lambda content, folder: run(), lambda folder: [b'seed'])
        )
        return fuzz.fuzz('made', cases, seed=0, out=out)


def fuzz_fault(words: str, out: Path):
    return fuzz_with(FAULTS[words], 0.2, 2, out)


def fuzz_refusal():
    return fuzz_with(refuse, 10, 3, None)


@pytest.mark.parametrize('words', FAULTS)
def test_each_kind_of_fault_is_a_finding(words, process, tmp_path):
    outcome = process.submit(fuzz_fault, words, tmp_path / 'out').result()
    assert [number for number, _ in outcome.findings] == [0, 1]
    assert words in outcome.findings[0][1]
    assert len(list((tmp_path / 'out').glob('made-0-*.txt'))) == 2


def test_a_refusal_is_no_finding(process):
    assert process.submit(fuzz_refusal).result()[:2] == (0, 3)
