"""The soak run's counters and its verdict."""

import os

import pytest
from programs import load_benchmark as load

from pgs.errors import UserError


def test_counters_of_this_process():
    counters = load('soak').read_counters(os.getpid())
    assert counters['memory MiB'] > 10
    assert counters['open files'] >= 3
    assert counters['threads'] >= 1


def test_growth_is_found():
    soak = load('soak')
    flat = [{'memory MiB': 500.0 + i % 3, 'open files': 40, 'threads': 20} for i in range(40)]
    flat[0]['memory MiB'] = 100.0  # caches fill at the start
    tenths = soak.by_tenth(flat)
    assert len(tenths) == 10
    assert soak.growing(tenths) == []
    leaking = [r | {'open files': 40 + i} for i, r in enumerate(flat)]
    assert soak.growing(soak.by_tenth(leaking)) == ['open files: from 46 to 78']
    with pytest.raises(UserError, match='take more --steps'):
        soak.by_tenth(flat[:9])


def test_the_command_names_keys_that_exist(tmp_path):
    from flax.traverse_util import flatten_dict

    from configs import base

    known = flatten_dict(base.get_config().to_dict(), sep='.')
    flags = [f for f in load('soak').command(tmp_path, 100) if f.startswith('--config.')]
    assert len(flags) > 10
    assert all(f.removeprefix('--config.').split('=')[0] in known for f in flags)
