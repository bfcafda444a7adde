"""A minute's worth of fuzzing, and that the fuzzer notices what it looks for."""

import contextlib

import numpy as np
import pytest
from programs import load_benchmark

from pgs.errors import UserError

TARGETS = load_benchmark('fuzz_targets').TARGETS
Target = load_benchmark('fuzz_targets').Target
fuzz = load_benchmark('fuzz')
CASES = {'images': 40, 'safetensors': 15, 'config': 25}


@pytest.mark.parametrize('name', TARGETS)
def test_hostile_input_ends_in_a_value_or_an_error_of_one_line(name):
    outcome = fuzz.fuzz(name, CASES.get(name, 80), seed=0, out=None)
    assert not outcome.findings, outcome.findings[0]
    assert outcome.values + outcome.refusals == CASES.get(name, 80)


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


def refuse(message):
    raise UserError(message)


@pytest.mark.parametrize('words', FAULTS)
def test_each_kind_of_fault_is_a_finding(words, monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, 'SECONDS', 0.2)
    target = Target(lambda content, folder: FAULTS[words](), lambda folder: [b'seed'])
    monkeypatch.setitem(TARGETS, 'faulty', target)
    outcome = fuzz.fuzz('faulty', 2, seed=0, out=tmp_path / 'out')
    assert [number for number, _ in outcome.findings] == [0, 1]
    assert words in outcome.findings[0][1]
    assert len(list((tmp_path / 'out').glob('faulty-0-*.txt'))) == 2


def test_a_refusal_is_no_finding(monkeypatch):
    target = Target(lambda content, folder: refuse('one line'), lambda folder: [b'seed'])
    monkeypatch.setitem(TARGETS, 'refusing', target)
    assert fuzz.fuzz('refusing', 3, seed=0, out=None)[:2] == (0, 3)
