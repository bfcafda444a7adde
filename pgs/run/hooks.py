"""What happens between train steps: log, trace, score, save.

A hook is called after every step as hook(step, state=state, metrics=metrics).
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
from clu.periodic_actions import PeriodicCallback
from ml_collections import ConfigDict

from pgs.run.interrupt import Interrupt
from pgs.run.lock import Lock
from pgs.run.metrics import MetricLog, Progress
from pgs.run.saves import Saves
from pgs.run.skips import Skips
from pgs.step import Metrics, TrainState
from pgs.utils import phases
from pgs.utils.distributed import print_once

Hook = Callable[..., Any]


class StepLog:
    """Writes the metrics of every `log_every`-th step and of the last one.

    The metrics of a step are fetched only after the next step was dispatched, so that the device
    never waits for the log.

    Skipped steps are written by `skips` only.

    Raises:
      UserError: config.max_skipped steps in a row were skipped.
    """

    def __init__(self, config: ConfigDict, log: MetricLog, progress: Progress, skips: Skips):
        self._config, self._log, self.progress, self.skips = config, log, progress, skips
        self._pending: tuple[int, Metrics] | None = None

    def __call__(self, step: int, *, metrics: Metrics, state: TrainState) -> None:
        del state
        self.flush()
        self.skips.add(step, metrics)
        if step % self._config.log_every == 0 or step == self._config.total_steps:
            self._pending = (step, metrics)
        if step == self._config.total_steps:
            self.flush()  # before the wait for the last checkpoint, which is no training time

    def settle(self) -> None:
        """Writes what is still pending, to the disk: to be called before a checkpoint."""
        self.flush()
        self.skips.fetch_until(self._config.total_steps)
        self._log.sync()

    def flush(self) -> None:
        """Writes what is still pending."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self.skips.fetch_until(step)
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if self.skips.in_a_row:
            return
        scalars['pairs_per_second'] = self.progress.update(step)
        self._log.write(step, scalars)
        print_once(self.progress.line(step, scalars))


def lock_hook(held: Lock) -> Hook:
    """Stops the run, before anything more is written, when another process took its lock."""

    def call(step: int, *, state: TrainState, metrics: Metrics) -> None:
        del step, state, metrics
        held.check()

    return call


def is_scored(config: ConfigDict, step: int) -> bool:
    """Whether score_hook scores a step: not the last one, which is scored after the loop."""
    due = bool(config.evals) and config.eval_every > 0 and step % config.eval_every == 0
    return due and 0 < step < config.total_steps


def score_hook(
    config: ConfigDict, step_log: StepLog, interrupt: Interrupt, score: Callable[[int, Any], None]
) -> Hook:
    """Calls score(step, params) every config.eval_every steps, outside the measured training time.

    Not at the end, which is scored after the loop, and not once a stop was requested.
    """

    def call(step: int, t: float, *, state: TrainState, metrics: Metrics) -> None:
        del t, metrics
        if not is_scored(config, step) or interrupt.requested:
            return
        step_log.flush()
        start = time.perf_counter()
        with phases.phase('score', patience=math.inf), interrupt.aborts():
            score(step, state.weights)
        step_log.progress.leave_out(time.perf_counter() - start)

    return PeriodicCallback(every_steps=config.eval_every, callback_fn=call)


def save_hook(config: ConfigDict, saves: Saves, step_log: StepLog) -> Hook:
    """Saves a checkpoint every config.checkpoint_every steps, after the log's lines before it.

    Not after a skipped step: the parameters may be why its loss is not finite, and the checkpoint
    would take the place of a better one.
    """

    def call(step: int, t: float, *, state: TrainState, metrics: Metrics) -> None:
        del t, metrics
        with phases.phase('save', patience=math.inf):
            step_log.settle()
            if not step_log.skips.in_a_row:
                saves.save(step, state)

    return PeriodicCallback(every_steps=config.checkpoint_every, callback_fn=call)
