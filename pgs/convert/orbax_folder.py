"""Parameters of a training workdir, and a folder of parameters alone, both by Orbax."""

import json
import os

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pgs.convert.parameters import KEYS, check_params
from pgs.errors import UserError
from pgs.models.clip import build_model
from pgs.utils.files import absolute, write_json


def read_described(folder: epath.Path) -> dict:
    """config.model in a folder's config.json.

    Raises:
      UserError: a file that cannot be read, or another program's.
    """
    path = folder / 'config.json'
    try:
        model = json.loads(path.read_text())['model']
        # Runs from before QuickGELU could be chosen have the exact one.
        described = {'quick_gelu': False} | model
        described = {key: described[key] for key in KEYS} | {'remat': 'none'}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'cannot read a model in {path}: {error!r}') from error
    return described


def read_workdir(folder: epath.Path) -> tuple[dict, dict, str]:
    """(params, config.model, source) of a run's newest checkpoint; the optimiser is not read.

    Where several processes run, all must call it.

    Raises:
      UserError: a workdir without a checkpoint, or one that does not fit its config.
    """
    described = read_described(folder)
    steps = ocp.utils.checkpoint_steps(folder / 'checkpoints')  # the finished ones
    if not steps:
        raise UserError(f'{folder} holds no checkpoint yet: train on, or give another folder')
    step = max(steps)
    source = f'{folder}, step {step}'
    params = restore(folder / 'checkpoints' / str(step) / 'default', 'params', source)
    check_params(params, described, source)
    return params, described, source


def read_folder(folder: epath.Path) -> tuple[dict, dict, str]:
    """(params, config.model, source) of what write_folder wrote."""
    described = read_described(folder)
    source = os.fspath(folder)
    params = restore(folder / 'params', None, source)
    check_params(params, described, source)
    return params, described, source


def restore(path: epath.Path, part: str | None, source: str) -> dict:
    """Numpy arrays of a checkpoint, or of one part of its top level; the rest is not read."""
    path = absolute(path)  # Orbax asks for it
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path).tree
        tree = tree if part is None else {part: tree[part]}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray, np.float32), tree)
        args = ocp.args.PyTreeRestore(
            tree, restore_args=arguments, partial_restore=part is not None
        )
        restored = handler.restore(path, args=args)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        line = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f'cannot read the checkpoint of {source}: {line}') from error
    return restored if part is None else restored[part]


def write_folder(folder: epath.Path, params: dict, described: dict) -> None:
    """Writes config.json and params/ into an existing folder."""
    build_model(described, dtype=np.float32)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(
        absolute(folder) / 'params', args=ocp.args.PyTreeSave(params)
    )
    write_json(absolute(folder) / 'config.json', {'model': described})
