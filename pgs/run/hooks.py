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
from orbax.checkpoint import CheckpointManager

from pgs.errors import UserError
from pgs.run import checkpoint
from pgs.run.interrupt import Interrupt
from pgs.run.metrics import MetricLog, Progress
from pgs.step import Metrics, TrainState
from pgs.utils.distributed import print_once

Hook = Callable[..., Any]


class StepLog:
    """Writes the metrics of every `log_every`-th step and of the last one.

    The metrics of a step are fetched only after the next step was dispatched, so that the device
    never waits for the log.

    Raises:
      UserError: when called after a step whose loss was not finite.
    """

    def __init__(self, config: ConfigDict, log: MetricLog, progress: Progress):
        self._config, self._log, self.progress = config, log, progress
        self._pending: tuple[int, Metrics] | None = None

    def __call__(self, step: int, *, metrics: Metrics, state: TrainState) -> None:
        del state
        self.flush()
        if step % self._config.log_every == 0 or step == self._config.total_steps:
            self._pending = (step, metrics)
        if step == self._config.total_steps:
            self.flush()  # before the wait for the last checkpoint, which is no training time

    def flush(self) -> None:
        """Writes what is still pending."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(scalars['loss']):
            rate = self._config.optimizer.peak_learning_rate
            raise UserError(
                f'the loss is {scalars["loss"]} at step {step}: the run diverged; lower '
                f'config.optimizer.peak_learning_rate={rate}'
            )
        scalars['pairs_per_second'] = self.progress.update(step)
        self._log.write(step, scalars)
        print_once(self.progress.line(step, scalars))


def score_hook(
    config: ConfigDict, step_log: StepLog, interrupt: Interrupt, score: Callable[[int, Any], None]
) -> Hook:
    """Calls score(step, params) every config.eval_every steps, outside the measured training time.

    Not at the end, which is scored after the loop, and not once a stop was requested.
    """

    def call(step: int, t: float, *, state: TrainState, metrics: Metrics) -> None:
        del t, metrics
        if step == config.total_steps or interrupt.requested:
            return
        step_log.flush()
        start = time.perf_counter()
        score(step, state.params)
        step_log.progress.leave_out(time.perf_counter() - start)

    return PeriodicCallback(every_steps=config.eval_every, callback_fn=call)


def save_hook(config: ConfigDict, manager: CheckpointManager) -> Hook:
    """Saves a checkpoint every config.checkpoint_every steps."""

    def call(step: int, t: float, *, state: TrainState, metrics: Metrics) -> None:
        del t, metrics
        checkpoint.save(manager, step, state)

    return PeriodicCallback(every_steps=config.checkpoint_every, callback_fn=call)
