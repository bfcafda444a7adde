"""What a run was made of: machine, packages, program and data, written at each of its starts."""

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath

from input_pipeline.sources import Records
from pgs.errors import UserError
from pgs.utils.files import write_json, writing

FILE = 'environment.json'
ROOT = Path(__file__).parents[2]
# Variables that change what is computed, or how fast.
VARIABLES = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'JAX_PLATFORMS', 'GLIBC_TUNABLES')


def git_commit() -> str | None:
    """The program's commit, with '+changes' where files differ from it; None without git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ['git', '-C', str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git('status', '--porcelain', '--untracked-files=no')
        return git('rev-parse', 'HEAD') + ('+changes' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict[str, Any]:
    """Python, packages, program, machine and devices of this process."""
    packages = {d.metadata['Name']: d.version for d in metadata.distributions()}
    return {
        'python': platform.python_version(),
        'git_commit': git_commit(),
        'platform': platform.platform(),
        'processor': processor(),
        'devices': sorted({d.device_kind for d in jax.devices()}),
        'device_count': jax.device_count(),
        'process_count': jax.process_count(),
        'variables': {name: os.environ[name] for name in VARIABLES if name in os.environ},
        'packages': dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def processor() -> str:
    """The model name of the host's processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def fingerprint(sources: Iterable[Records]) -> list[dict[str, Any]]:
    """What tells one data set from another, without reading it all.

    Returns:
      For each source its split, number of pairs, and a hash of its files' names and numbers of
      records and of its first and last record.
    """
    found = []
    for source in sources:
        digest = hashlib.sha256(json.dumps(source.shards, sort_keys=True).encode())
        for index in (0, len(source) - 1):
            record = source[index]
            digest.update(record['image'] + b''.join(record['captions']))
        found.append({'split': source.split, 'pairs': len(source), 'sha256': digest.hexdigest()})
    return found


def record_start(
    workdir: epath.Path, *, step: int, config: dict[str, Any], sources: Iterable[Records]
) -> None:
    """Appends this start to the folder's environment.json.

    Raises:
      UserError: a file that cannot be written, or that is not what this function wrote.
    """
    path = workdir / FILE
    starts = [
        *read_starts(workdir),
        {
            'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'step': step,
            **environment(),
            'config': config,
            'data': fingerprint(sources),
        },
    ]
    with writing(str(path), 'make the folder writable'):
        write_json(path, {'starts': starts})


def read_starts(workdir: epath.Path) -> list[dict[str, Any]]:
    """The starts of a run, oldest first; none for a run from before they were recorded.

    Raises:
      UserError: a damaged file.
    """
    path = workdir / FILE
    if not path.exists():
        return []
    try:
        starts = json.loads(path.read_text())['starts']
        if not all(isinstance(start, dict) for start in starts):
            raise ValueError('a start is not an object')
        return list(starts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'cannot read {path} ({error!r}): move it away, the run goes on without it'
        ) from error
