"""Checkpoints by Orbax: asynchronous, atomic, one folder a step."""

import os

import jax
import orbax.checkpoint as ocp

from pgs.utils.files import absolute


def open_manager(folder: str | os.PathLike, *, keep: int) -> ocp.CheckpointManager:
    """Manager of <workdir>/checkpoints, of which the newest `keep` stay."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(absolute(folder), options=options)


def save(manager: ocp.CheckpointManager, step: int, state) -> None:
    """Starts to write the state after `step` steps, and returns while it is being written.

    Orbax copies the arrays to the host before it returns, so that the next step may reuse them.
    """
    manager.save(step, args=ocp.args.StandardSave(state), force=True)


def restore(manager: ocp.CheckpointManager, state):
    """The newest checkpoint, laid out as `state` is (which may be on another mesh)."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract))
