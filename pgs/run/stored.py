"""The checkpoints of a run's folder, from outside: listed, verified, pruned; a lost config restored."""

import datetime
import json
import os
from typing import Any, NamedTuple

from etils import epath

from pgs.convert.integrity import (
    FORMAT_KEY,
    METADATA,
    checkpoint_steps,
    find_damage,
    read_metadata,
)
from pgs.errors import UserError
from pgs.run import lock
from pgs.run.checkpoint import ASIDE
from pgs.utils.checksums import files_in
from pgs.utils.files import absolute, write_json, writing


class Stored(NamedTuple):
    """A checkpoint on the disk.

    Attributes:
      path: its folder.
      size: bytes of its files.
      written: local time, '?' where its description is damaged.
      checksums: whether it has checksums.
    """

    path: epath.Path
    size: int
    written: str
    checksums: bool


def find_run(folder: str | os.PathLike) -> epath.Path:
    """The full path of a run's folder that has checkpoints.

    Raises:
      UserError: another folder.
    """
    workdir = absolute(folder)
    if not checkpoint_steps(workdir):
        raise UserError(f'{workdir} holds no checkpoint: give the --workdir of a run')
    return workdir


def list_checkpoints(folder: str | os.PathLike) -> list[str]:
    """A line for each checkpoint, oldest first, and for each that was set aside."""
    workdir = find_run(folder)
    lines = [
        f'step {step:>9}  {describe(workdir / "checkpoints" / str(step))}'
        for step in checkpoint_steps(workdir)
    ]
    aside = workdir / ASIDE
    damaged = sorted(p.name for p in aside.iterdir()) if aside.is_dir() else []
    return lines + [f'damaged, in {ASIDE}/{name}  {describe(aside / name)}' for name in damaged]


def describe(path: epath.Path) -> str:
    """Size, time and kind of a checkpoint."""
    found = read_stored(path)
    sums = 'checksums' if found.checksums else 'no checksums'
    return f'{found.size / 1e6:10.1f} MB  {found.written}  {sums}'


def read_stored(path: epath.Path) -> Stored:
    size = sum(file.stat().length for file in files_in(path))
    try:
        checksums = bool(read_metadata(path).get(FORMAT_KEY))
        nanoseconds = json.loads((path / METADATA).read_bytes())['commit_timestamp_nsecs']
        time = datetime.datetime.fromtimestamp(nanoseconds / 1e9)
        written = time.isoformat(' ', timespec='seconds')
    except (OSError, ValueError, KeyError, TypeError):
        checksums, written = False, '?'
    return Stored(path, size, written, checksums)


def verify(folder: str | os.PathLike) -> list[str]:
    """A line for each checkpoint, oldest first.

    Raises:
      UserError: some are damaged; their lines are in the message.
    """
    workdir = find_run(folder)
    lines, damaged = [], []
    for step in checkpoint_steps(workdir):
        path = workdir / 'checkpoints' / str(step)
        damage = find_damage(path)
        lines.append(f'step {step:>9}  {f"damaged: {damage}" if damage else "intact"}')
        if damage:
            damaged.append(f'{path} ({damage})')
    if damaged:
        raise UserError(
            f'{len(damaged)} of {len(lines)} checkpoints are damaged: {"; ".join(damaged)}; '
            'a run moves them aside when it resumes, if an earlier one is intact'
        )
    return lines


def prune(folder: str | os.PathLike, *, keep: int) -> list[str]:
    """Deletes all checkpoints but the newest intact ones, and those that were set aside.

    Args:
      folder: of a run that is not running.
      keep: number of intact checkpoints to keep, at least 1.

    Returns:
      A line for each deleted one.

    Raises:
      UserError: nothing is intact, a bad number, or a run that is running.
    """
    if keep < 1:
        raise UserError(f'--keep={keep} must be at least 1')
    workdir = find_run(folder)
    with lock.hold(workdir):
        paths = [workdir / 'checkpoints' / str(step) for step in checkpoint_steps(workdir)]
        intact = [path for path in paths if find_damage(path) is None]
        if not intact:
            raise UserError(f'no checkpoint of {workdir} is intact: nothing was deleted')
        aside = workdir / ASIDE
        deleted = [path for path in paths if path not in intact[-keep:]]
        deleted += list(aside.iterdir()) if aside.is_dir() else []
        with writing(str(workdir), 'make the folder writable'):
            for path in deleted:
                path.rmtree()
    return [f'deleted {path}' for path in deleted]


def restore_config(folder: str | os.PathLike) -> str:
    """Writes the config.json that the newest readable checkpoint holds, where there is none.

    Returns:
      A line for the console.

    Raises:
      UserError: config.json is there, or no checkpoint holds it.
    """
    workdir = find_run(folder)
    path = workdir / 'config.json'
    with lock.hold(workdir):
        if is_config(path):
            raise UserError(f'{path} is there and can be read: nothing was written')
        for step in reversed(checkpoint_steps(workdir)):
            config = stored_config(workdir / 'checkpoints' / str(step))
            if config:
                with writing(str(path), 'make the folder writable'):
                    if path.exists():
                        path.rename(workdir / 'config.json.damaged')
                    write_json(path, config)
                return f'wrote {path}, as the checkpoint of step {step} holds it'
    raise UserError(
        f'no checkpoint of {workdir} holds its config: the command of this run with another '
        f'--workdir writes the same config.json at its start; copy that one to {path}'
    )


def is_config(path: epath.Path) -> bool:
    """Whether a config.json can be read."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def stored_config(step_folder: epath.Path) -> dict[str, Any] | None:
    """The config that a checkpoint holds."""
    try:
        return read_metadata(step_folder).get('config')
    except (OSError, ValueError):
        return None
