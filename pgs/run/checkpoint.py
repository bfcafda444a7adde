"""Checkpoints by Orbax: asynchronous, atomic, one folder for each saved step.

Each has checksums of its files, which are compared before it is used (pgs/convert/integrity.py).
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.arrays import to_shape_dtype_struct
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN
from orbax.checkpoint.handlers import DefaultCheckpointHandlerRegistry

from pgs.convert.integrity import (
    FORMAT,
    FORMAT_KEY,
    ITEM,
    checkpoint_steps,
    first_line,
    newest_intact,
)
from pgs.errors import UserError
from pgs.run.metrics_file import NAME, read_metrics
from pgs.step import TrainState
from pgs.utils.checksums import write_checksums
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute, writing

ASIDE = 'checkpoints_damaged'  # folder beside checkpoints/ that damaged ones are moved to

# Entries that not every run has: what they are, and what asks for them.
EMAS = {
    'ema': ('EMA tower', 'this masking strategy'),
    'average': ('average of the weights', 'config.weights_ema'),
}


class SaveFailed(UserError):
    """A checkpoint could not be written."""


class ChecksummedHandler(ocp.StandardCheckpointHandler):
    """Adds the log and checksums to a checkpoint before it is committed, in its writer's thread."""

    def __init__(self, workdir: epath.Path):
        """workdir: folder of the run, with its log."""
        super().__init__()
        self._log = workdir / NAME

    def finalize(self, directory: epath.Path) -> None:
        """Called by the primary process, when the files of all processes are complete."""
        super().finalize(directory)
        if self._log.exists():
            self._log.copy(directory / NAME)
        write_checksums(directory)

    @classmethod
    def typestr(cls) -> str:
        """The name in the files: they can be read with Orbax's own handler."""
        return ocp.StandardCheckpointHandler.typestr()


class BestScore(NamedTuple):
    """Orbax's policy that keeps the checkpoint whose step has the best score in metrics.jsonl.

    The lowest value of a loss is the best, and the highest of any other score. Orbax's own BestN
    takes only scores that are stored in the checkpoints.
    """

    workdir: epath.Path
    name: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        sign = -1 if self.name.endswith('loss') else 1
        scores = {
            record['step']: sign * record[self.name]
            for record in read_metrics(self.workdir / NAME)
            if isinstance(record.get(self.name), float) and math.isfinite(record[self.name])
        }
        known = [c.step for c in checkpoints if c.step in scores]
        best = max(known, key=scores.__getitem__, default=None)
        return [c.step == best for c in checkpoints]


def open_manager(
    folder: str | os.PathLike, *, keep: int, keep_every: int = 0, best: str = ''
) -> ocp.CheckpointManager:
    """The manager of <workdir>/checkpoints.

    Args:
      folder: created if absent.
      keep: number of the newest checkpoints that are kept.
      keep_every: checkpoints of the multiples of this number of steps are kept too; 0: none.
      best: the checkpoint with the best score of this name is kept too; '': none.
    """
    target = absolute(folder)
    policies: list[Any] = [LatestN(keep)]
    policies += [EveryNSteps(keep_every)] if keep_every else []
    policies += [BestScore(target.parent, best)] if best else []
    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies),
        create=True,
        cleanup_tmp_directories=True,
    )
    registry = DefaultCheckpointHandlerRegistry()
    handler = ChecksummedHandler(target.parent)
    registry.add(ITEM, ocp.args.StandardSave, handler)
    registry.add(ITEM, ocp.args.StandardRestore, handler)
    logging.getLogger('absl').addFilter(is_not_reported)
    return ocp.CheckpointManager(target, options=options, handler_registry=registry)


def is_not_reported(record: logging.LogRecord) -> bool:
    """Drops Orbax's logged tracebacks of failed saves: `failures` reports each in one line."""
    return not (record.exc_info and f'{os.sep}orbax{os.sep}' in record.pathname)


def save(manager: ocp.CheckpointManager, step: int, state: TrainState) -> None:
    """Starts to write the state after `step` steps, and returns before it is written.

    Orbax copies the arrays to the host before it returns, so that the next step may reuse them.

    Raises:
      UserError: a state that is not finite, of which nothing is written.
      SaveFailed: this save or the one before it failed. The earlier checkpoints are intact.
    """
    if not bool(all_finite(state)):
        wait(manager)
        raise UserError(
            f'the state is not finite after step {step}: the run diverged, and nothing was saved; '
            f'lower config.optimizer.peak_learning_rate. {last_good(manager)}'
        )
    metadata = {FORMAT_KEY: FORMAT} | config_of(manager.directory.parent)
    with failures(manager):
        manager.save(
            step, args=ocp.args.StandardSave(content(state)), force=True, custom_metadata=metadata
        )


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Whether every value of a state is a finite number; bool scalar."""
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()


def config_of(workdir: epath.Path) -> dict[str, Any]:
    """{'config': content of config.json}, so that a lost one can be restored; {} without one."""
    try:
        return {'config': json.loads((workdir / 'config.json').read_bytes())}
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def failures(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Turns any error of writing a checkpoint into a SaveFailed of one line."""
    try:
        yield
    except Exception as error:  # OSError, or ValueError and others from TensorStore
        raise SaveFailed(
            f'cannot write a checkpoint to {manager.directory} ({first_line(error)}): free or '
            f'repair the disk. {last_good(manager)}'
        ) from error


def last_good(manager: ocp.CheckpointManager) -> str:
    """Which checkpoint the run can resume from, as a sentence."""
    steps = checkpoint_steps(manager.directory.parent)
    if not steps:
        return 'There is no earlier checkpoint'
    return f'The checkpoint of step {max(steps)} is complete: the same command resumes from it'


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits until the last checkpoint is written.

    Raises:
      SaveFailed: it could not be written.
    """
    with failures(manager):
        manager.wait_until_finished()


def remove_unfinished(manager: ocp.CheckpointManager) -> None:
    """Removes what a failed save left, and has the manager count the complete checkpoints only."""
    for path in manager.directory.glob('*.orbax-checkpoint-tmp*'):
        with contextlib.suppress(OSError):
            path.rmtree()
    manager.reload()


def set_damaged_aside(workdir: epath.Path) -> None:
    """Moves damaged checkpoints that are newer than the newest intact one out of checkpoints/.

    To be called by one process before the manager is opened.

    Raises:
      UserError: no checkpoint is intact, or a folder that cannot be moved; nothing is moved then.
    """
    if not checkpoint_steps(workdir):
        return
    step, damaged = newest_intact(workdir)
    for number, damage in damaged.items():
        source = workdir / 'checkpoints' / str(number)
        target = workdir / ASIDE / str(number)
        copies = 1
        while target.exists():
            copies += 1
            target = workdir / ASIDE / f'{number}-{copies}'
        with writing(f'{target}', f'move the damaged {source} away yourself'):
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        print_once(
            f'warning: checkpoint {source} is damaged ({damage}): moved to {target}, and step '
            f'{step} is used'
        )


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The newest checkpoint, placed as `state` is, which may be on another mesh.

    Raises:
      UserError: a checkpoint that does not fit the state, or without an EMA that it has.
    """
    step = manager.latest_step()
    abstract = jax.tree.map(to_shape_dtype_struct, content(state))
    try:
        needed = [name for name in EMAS if name in abstract]
        saved = saved_entries(manager, step) if needed else set()
        for what, why in (EMAS[name] for name in needed if name not in saved):
            raise UserError(
                f'{manager.directory}/{step} holds no {what}, which {why} needs: start a new run '
                'from its weights (a new --workdir and --config.init_from=THE_OLD_WORKDIR)'
            )
        restored = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'the checkpoint {manager.directory / str(step)} does not fit this run or cannot be '
            f'read ({first_line(error)}): use the program and the config that wrote it'
        ) from error
    return dataclasses.replace(state, **restored)


def content(state: TrainState) -> dict[str, Any]:
    """The entries of a checkpoint. Without EMAs it is the same as before there were any."""
    entries = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: entry for name, entry in entries.items() if entry is not None}


def saved_log(manager: ocp.CheckpointManager, step: int) -> epath.Path | None:
    """The copy of metrics.jsonl in a checkpoint; earlier versions wrote none."""
    path = manager.directory / str(step) / ITEM / NAME
    return path if path.exists() else None


def saved_entries(manager: ocp.CheckpointManager, step: int | None) -> set[str]:
    """Names of the top-level entries of a checkpoint."""
    path = manager.directory / str(step) / ITEM
    return set(ocp.PyTreeCheckpointHandler().metadata(path).tree)
