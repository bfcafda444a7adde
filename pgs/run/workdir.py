"""The folder of a run: created, and checked against the run that it holds."""

import json
import os
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from configs import base
from pgs.convert.integrity import checkpoint_steps
from pgs.errors import UserError
from pgs.utils.files import absolute, write_json, writing

FILES = ('config.json', 'metrics.jsonl', 'results.json')
FOLDERS = ('checkpoints', 'checkpoints_damaged', 'figures', 'profile')
# Keys that may change between a run and its resumption: they choose what is written and how the
# work is distributed, not what is computed.
FREE_KEYS = {
    'compile_cache',
    'log_every',
    'checkpoint_every',
    'checkpoints_kept',
    'checkpoints_kept_every',
    'checkpoint_best',
    'profile_steps',
    'tracker',
    'max_skipped',
    'failed_saves_allowed',
    'silence_limit',
    'data.dir',
    'data.cache_dir',
    'data.window_cache',
    'data.window_cache_gb',
    'evals',
    'eval_every',
    'eval_masked',
    'eval_data_root',
    'mesh.data',
    'mesh.zero',
    'mesh.fsdp',
    'microbatches',
    'model.remat',
    'model.unroll',
    'model.attention',
}


def prepare(workdir: str | os.PathLike, config: dict[str, Any]) -> None:
    """Creates the folder, or checks that the run in it is this one, and writes config.json.

    Args:
      workdir: a new or empty folder, or the folder of the same run.
      config: plain nested dict.

    Raises:
      UserError: a folder that cannot be written, or that holds the run of another config.
    """
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    folder = absolute(workdir)
    path = folder / 'config.json'
    check_kinds(folder)
    if path.exists():
        check_same_run(path, config)
    elif checkpoint_steps(folder):
        raise UserError(f'{folder} holds checkpoints but no config.json: {remedy(folder)}')
    with writing(f'--workdir={folder}', 'make the path writable or give another one'):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, config)


def check_kinds(folder: epath.Path) -> None:
    """Raises UserError where a run's file is a folder, or its folder a file."""
    for name in FILES:
        if (folder / name).is_dir():
            raise UserError(
                f'{folder / name} is a folder, and a run keeps a file there: move it away, and '
                'put the file of the run back if there was one'
            )
    for name in FOLDERS:
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(
                f'{folder / name} is a file, and a run keeps a folder there: move it away, and '
                'put the folder of the run back if there was one'
            )


def remedy(folder: epath.Path) -> str:
    """What to do about a config.json that is absent or damaged."""
    if not checkpoint_steps(folder):
        return 'move it away; no checkpoint was written yet'
    return (
        f'`python -m pgs.checkpoint restore-config {folder}` writes it from a checkpoint; or give '
        'another --workdir'
    )


def check_same_run(path: epath.Path, config: dict[str, Any]) -> None:
    """Raises UserError where config.json describes another run than `config`."""
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # not JSON, or not UTF-8
        raise UserError(f'cannot read {path} ({error}): {remedy(path.parent)}') from error
    if not isinstance(written, dict):
        raise UserError(f'cannot read {path} (it is not a config): {remedy(path.parent)}')
    written, now = flatten_dict(written, sep='.'), flatten_dict(config, sep='.')
    # A key that is newer than the run had its default in effect: a default changes nothing.
    defaults = flatten_dict(json.loads(json.dumps(base.get_config().to_dict())), sep='.')
    before = {key: defaults[key] for key in now.keys() & defaults.keys()} | written
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
