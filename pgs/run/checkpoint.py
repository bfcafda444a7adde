"""Checkpoints by Orbax: asynchronous, atomic, one folder for each saved step."""

import os

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.arrays import to_shape_dtype_struct
from orbax.checkpoint.checkpoint_managers import LatestN

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
    manager.save(step, args=ocp.args.StandardSave(state), force=True)


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The newest checkpoint, placed as `state` is, which may be on another mesh."""
    abstract = jax.tree.map(to_shape_dtype_struct, state)
    return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract))
