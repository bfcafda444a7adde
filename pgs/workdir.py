"""The folder of a run: made, checked against the run that it holds, never half-written."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from pgs.errors import UserError

# Keys that may change between a run and its resumption: they choose what is written and how the
# work is spread, not what is computed.
FREE_KEYS = {
    'log_every', 'checkpoint_every', 'checkpoints_kept', 'profile_steps', 'data.dir',
    'data.cache_dir', 'evals', 'eval_every', 'eval_data_root', 'mesh.data', 'mesh.fsdp', 'microbatches', 'model.remat',
}  # fmt: skip


def flatten(tree: dict, prefix: str = '') -> dict:
    """{'data': {'name': 'x'}} -> {'data.name': 'x'}."""
    flat = {}
    for key, value in tree.items():
        path = f'{prefix}{key}'
        flat |= flatten(value, f'{path}.') if isinstance(value, dict) else {path: value}
    return flat


def absolute(workdir: str | os.PathLike) -> epath.Path:
    """The folder's full path; gs:// and other addresses are one already."""
    path = epath.Path(workdir).expanduser()
    return path if '://' in os.fspath(path) else epath.Path(os.path.abspath(path))


@contextlib.contextmanager
def replacing(path: os.PathLike) -> Iterator[BinaryIO]:
    """A file beside the path, renamed at the end: a reader sees the old content or the new."""
    path = epath.Path(path)
    partial = path.with_name(f'{path.name}.partial')
    with partial.open('wb') as file:
        yield file
    partial.replace(path)


def write_json(path: os.PathLike, content: dict) -> None:
    """Replaces a file by JSON."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + '\n').encode())


def prepare(workdir: str | os.PathLike, config: dict) -> None:
    """Makes the folder, or checks that the run in it is this one, and writes config.json.

    Args:
      workdir: a new or an empty folder, or that of the same run.
      config: plain nested dict.

    Raises:
      UserError: a folder that cannot be written, or that holds another config's run.
    """
    workdir = absolute(workdir)
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    path = workdir / 'config.json'
    if path.is_file():
        check_same_run(path, config)
    elif (workdir / 'checkpoints').is_dir() and any((workdir / 'checkpoints').iterdir()):
        raise UserError(f'{workdir} holds checkpoints but no config.json: give another --workdir')
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, config)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f'cannot write to --workdir={workdir} ({reason}): free the path or give another one'
        ) from error


def check_same_run(path: epath.Path, config: dict) -> None:
    """Raises UserError where the config in the file gives another run than this one."""
    try:
        before = flatten(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError, AttributeError) as error:
        raise UserError(f'cannot read {path}: {error}; give another --workdir') from error
    now = flatten(config)
    absent = '(none)'
    differing = [
        f'config.{key}: {before.get(key, absent)} there, {now.get(key, absent)} here'
        for key in sorted(before.keys() | now.keys())
        if key not in FREE_KEYS and before.get(key, absent) != now.get(key, absent)
    ]
    if differing:
        more = f' (and {len(differing) - 3} more)' if len(differing) > 3 else ''
        raise UserError(
            f'{path.parent} holds a run of another config: {"; ".join(differing[:3])}{more}. '
            'Give another --workdir, or set these keys as they were'
        )
