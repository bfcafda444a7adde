"""Checkpoints by Orbax: asynchronous, atomic, one folder a step."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp


def open_manager(folder: str | Path, *, every: int, keep: int) -> ocp.CheckpointManager:
    """Manager of <workdir>/checkpoints.

    Args:
      folder: made when the first checkpoint is written.
      every: steps between checkpoints.
      keep: newest checkpoints that stay.
    """
    options = ocp.CheckpointManagerOptions(
        save_interval_steps=every, max_to_keep=keep, create=True, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state, *, force: bool = False) -> None:
    """Starts to write the state after `step` steps, if it is due; returns at once.

    Orbax copies the arrays to the host before it returns, so that the next step may reuse them.
    """
    if manager.latest_step() != step:
        manager.save(step, args=ocp.args.StandardSave(state), force=force)


def restore(manager: ocp.CheckpointManager, state):
    """The newest checkpoint, laid out as `state` is (which may be on another mesh)."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract))
