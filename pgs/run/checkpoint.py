"""Checkpoints by Orbax: asynchronous, atomic, one folder for each saved step."""

import dataclasses
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.arrays import to_shape_dtype_struct
from orbax.checkpoint.checkpoint_managers import LatestN

from pgs.errors import UserError
from pgs.step import TrainState
from pgs.utils.files import absolute


def open_manager(folder: str | os.PathLike, *, keep: int) -> ocp.CheckpointManager:
    """The manager of <workdir>/checkpoints, which keeps the newest `keep` checkpoints."""
    options = ocp.CheckpointManagerOptions(
        preservation_policy=LatestN(keep), create=True, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(absolute(folder), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: TrainState) -> None:
    """Starts to write the state after `step` steps, and returns before it is written.

    Orbax copies the arrays to the host before it returns, so that the next step may reuse them.
    """
    manager.save(step, args=ocp.args.StandardSave(content(state)), force=True)


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The newest checkpoint, placed as `state` is, which may be on another mesh.

    Raises:
      UserError: a checkpoint without the EMA tower that the state has.
    """
    step = manager.latest_step()
    abstract = jax.tree.map(to_shape_dtype_struct, content(state))
    if 'ema' in abstract and 'ema' not in saved_entries(manager, step):
        raise UserError(
            f'{manager.directory}/{step} holds no EMA tower, which this masking strategy needs: start a '
            'new run from its weights (a new --workdir and --config.init_from=THE_OLD_WORKDIR)'
        )
    restored = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    return dataclasses.replace(state, **restored)


def content(state: TrainState) -> dict[str, Any]:
    """The entries of a checkpoint. Without an EMA tower it is the same as before there were any."""
    entries = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: entry for name, entry in entries.items() if entry is not None}


def saved_entries(manager: ocp.CheckpointManager, step: int | None) -> set[str]:
    """Names of the top-level entries of a checkpoint."""
    path = manager.directory / str(step) / 'default'
    return set(ocp.PyTreeCheckpointHandler().metadata(path).tree)
