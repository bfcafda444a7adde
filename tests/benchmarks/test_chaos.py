"""Faults on files that are made here, and the verdict of a round."""

import random
import signal

from programs import load_benchmark as load

from benchmarks import faults


def test_damage_changes_the_newest_checkpoint_only(tmp_path):
    for step in (5, 10):
        folder = tmp_path / 'checkpoints' / str(step)
        folder.mkdir(parents=True)
        (folder / 'data').write_bytes(bytes(range(256)) * 4)
    old = (tmp_path / 'checkpoints' / '5' / 'data').read_bytes()
    seen = set()
    for seed in range(20):
        path = tmp_path / 'checkpoints' / '10' / 'data'
        path.write_bytes(old)
        assert faults.damage_checkpoint(tmp_path, random.Random(seed))
        seen.add(path.stat().st_size if path.exists() else None)
        assert not path.exists() or path.read_bytes() != old
    assert seen == {None, 0, 512, 1024}  # removed, emptied, cut, overwritten
    assert (tmp_path / 'checkpoints' / '5' / 'data').read_bytes() == old


def test_the_only_checkpoint_is_left_alone(tmp_path):
    (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
    (tmp_path / 'checkpoints' / '5' / 'data').write_bytes(b'x' * 100)
    assert not faults.damage_checkpoint(tmp_path, random.Random(0))


def test_damaged_metrics_differ(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    for seed in range(10):
        path.write_text('{"step": 1}\n{"step": 2}\n')
        assert faults.damage_metrics(tmp_path, random.Random(seed))
        assert path.read_bytes() != b'{"step": 1}\n{"step": 2}\n'


def test_verdicts():
    chaos = load('chaos')
    killed = (0, -signal.SIGKILL)
    assert chaos.wrong_ending(faults.Ending(-9, 'step 3'), killed) is None
    assert 'did not end' in chaos.wrong_ending(faults.Ending(None, 'step 3'), killed)
    assert 'exit status 1' in chaos.wrong_ending(faults.Ending(1, 'error: x'), killed)
    assert chaos.wrong_ending(faults.Ending(1, 'error: x'), (0, 1)) is None
    assert 'not the error' in chaos.wrong_ending(faults.Ending(1, '  at line 3'), (0, 1))
