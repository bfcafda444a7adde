"""Reads parameters from a training workdir; reads and writes folders of parameters. All by Orbax."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pgs.convert.integrity import ITEM, checkpoint_steps, first_line, newest_intact
from pgs.convert.parameters import ARCHITECTURE_KEYS, check_params
from pgs.errors import UserError
from pgs.models.clip import build_model
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute, read_json, write_json


def read_architecture(folder: epath.Path) -> dict[str, Any]:
    """The architecture in a folder's config.json.

    Raises:
      UserError: a file that cannot be read, or one that another program wrote.
    """
    path = folder / 'config.json'
    try:
        # Runs from before the setting quick_gelu existed have the exact GELU.
        settings = {'quick_gelu': False} | read_json(path)['model']
        return {key: settings[key] for key in ARCHITECTURE_KEYS} | {'remat': 'none'}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'cannot read a model in {path}: {error!r}') from error


def read_workdir(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(parameters, architecture, source) of a run's newest checkpoint, without the optimiser.

    Of a run with config.weights_ema it is their average, which the run's own scores are of.
    A damaged checkpoint is named in a warning, and the one before it is read. If several
    processes run, all must call it.

    Raises:
      UserError: a workdir without an intact checkpoint, or one that does not fit its config.
    """
    architecture = read_architecture(folder)
    if not checkpoint_steps(folder):
        raise UserError(f'{folder} holds no checkpoint yet: train on, or give another folder')
    step, damaged = newest_intact(folder)
    for number, damage in damaged.items():
        print_once(
            f'warning: checkpoint {folder / "checkpoints" / str(number)} is damaged ({damage}): '
            f'step {step} is read instead'
        )
    source = f'{folder}, step {step}'
    path = folder / 'checkpoints' / str(step) / ITEM
    part = 'params'
    if has_average(path, source):
        part, source = 'average', f'{source}, average of the weights'
    params = restore(path, part, source)
    check_params(params, architecture, source)
    return params, architecture, source


def read_folder(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(parameters, architecture, source) of a folder that write_folder wrote."""
    architecture = read_architecture(folder)
    source = os.fspath(folder)
    params = restore(folder / 'params', None, source)
    check_params(params, architecture, source)
    return params, architecture, source


def has_average(path: epath.Path, source: str) -> bool:
    """Whether a run's checkpoint has an average of its weights; arguments as for `restore`."""
    with reading(source):
        return 'average' in ocp.PyTreeCheckpointHandler().metadata(absolute(path)).tree


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what Orbax raises for a checkpoint that it cannot read into a UserError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'cannot read the checkpoint of {source}: {first_line(error)}') from error


def restore(path: epath.Path, part: str | None, source: str) -> dict[str, Any]:
    """Float32 numpy arrays of a checkpoint.

    Args:
      path: folder of the checkpoint.
      part: the only top-level entry to read; None reads all.
      source: name of the checkpoint in messages.

    Raises:
      UserError: a checkpoint that cannot be read.
    """
    path = absolute(path)  # Orbax requires an absolute path
    handler = ocp.PyTreeCheckpointHandler()
    with reading(source):
        tree = handler.metadata(path).tree
        tree = tree if part is None else {part: tree[part]}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray, np.float32), tree)
        args = ocp.args.PyTreeRestore(
            tree, restore_args=arguments, partial_restore=part is not None
        )
        restored = handler.restore(path, args=args)
    return restored if part is None else restored[part]


def write_folder(
    folder: str | os.PathLike, params: dict[str, Any], architecture: dict[str, Any]
) -> None:
    """Writes config.json and params/ into an existing folder.

    Raises:
      UserError: an invalid architecture.
    """
    build_model(architecture, dtype=np.float32)
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(
        absolute(folder) / 'params', args=ocp.args.PyTreeSave(params)
    )
    write_json(absolute(folder) / 'config.json', {'model': architecture})
