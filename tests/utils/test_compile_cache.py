"""The cache of compiled programs: of bounded size, mended when damaged, and never a reason to stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from pgs.utils import compile_cache

ROOT = Path(__file__).parents[2]
# Computes one program three times, each time from the disk if it can: compiled, damaged, mended.
SCRIPT = """
import json, sys
from pathlib import Path
import jax
import jax.numpy as jnp
from pgs.utils import compile_cache

compile_cache.MIN_SECONDS = 0.0
compile_cache.use(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith('/cache_hits')))

@jax.jit
def program(x):
    for _ in range(4):
        x = jnp.tanh(x @ x) + jnp.sin(x).sum(0)
    return x

x = jnp.arange(64.0 * 64.0).reshape(64, 64) / 4096
results, found = [], []
for damage in (False, True, False):
    [entry] = Path(sys.argv[1]).rglob('jit_program-*') if damage else [None]
    if damage:
        entry.write_bytes(entry.read_bytes()[:-20])
    jax.clear_caches()
    hits.clear()
    results.append(program(x).tolist())
    found.append(sum(hits))
print(json.dumps({'found': found, 'equal': results[0] == results[1] == results[2]}))
"""


@pytest.fixture
def without_variable(monkeypatch):
    """As for a user: the tests' own cache is named by the environment."""
    monkeypatch.delenv(compile_cache.VARIABLE)


def test_a_cached_program_gives_the_same_bits_and_a_damaged_one_is_compiled_again(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env=environment | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    note, result = done.stdout.splitlines()
    assert 'the compiled jit_program' in note
    assert 'is damaged' in note
    assert done.stderr == ''
    assert json.loads(result) == {'found': [0, 0, 1], 'equal': True}


def test_the_files_not_read_for_longest_are_removed(tmp_path):
    for age, name in enumerate(('newest', 'middle', 'oldest')):
        path = tmp_path / name
        path.write_bytes(b'x' * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
    compile_cache.trim(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    compile_cache.trim(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {'newest', 'middle'}


def test_a_folder_that_cannot_be_written_is_not_used(tmp_path, capsys, without_variable):
    (tmp_path / 'file').write_text('')
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use(str(tmp_path / 'file'))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith('warning: compiled programs are not kept in config.compile_cache=')
    assert 'Not a directory' in line
    assert jax.config.jax_compilation_cache_dir == before


def test_it_is_off_without_a_folder_and_where_jax_has_its_own(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / 'own'))
    compile_cache.use(str(tmp_path / 'ours'))
    monkeypatch.delenv(compile_cache.VARIABLE)
    compile_cache.use('')
    assert not list(tmp_path.iterdir())
    assert jax.config.jax_compilation_cache_dir == before


def test_a_full_disk_is_one_line_and_other_warnings_stay(tmp_path, capsys):
    (tmp_path / 'jit_f-1-cache').write_text('')
    shown = []
    report = compile_cache.reporter(tmp_path, lambda message, *rest: shown.append(message))
    for name in ('jit_f', 'jit_g'):
        report(
            f"Error writing persistent compilation cache entry for '{name}': "
            'OSError: [Errno 28] No space left on device',
            UserWarning,
            'compiler.py',
            1,
        )
    report('something else', UserWarning, 'other.py', 1)
    [line] = capsys.readouterr().out.splitlines()
    assert line == (
        f'warning: the compiled jit_f is not kept in {tmp_path} '
        '(OSError: [Errno 28] No space left on device)'
    )
    assert shown == ['something else']
    assert (tmp_path / 'jit_f-1-cache').exists()
