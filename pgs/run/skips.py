"""Steps whose update was skipped, because their loss or gradient was not finite; and loss spikes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from input_pipeline import sampler, window, windowed
from input_pipeline.sources import Records
from pgs.errors import UserError
from pgs.run.metrics import MetricLog
from pgs.step import Metrics
from pgs.utils.distributed import is_primary, print_once
from pgs.utils.files import write_json, writing

REPORT = 'diverged.json'
CHUNK = 8  # steps whose results are fetched at once, when as many later ones were dispatched
SPIKE = 1.0  # nats above the mean loss of the last steps that are reported as a spike
MEAN_STEPS = 50  # steps of that mean, and between two reports


class Step(NamedTuple):
    """What is fetched of a step."""

    number: int
    loss: float
    grad_norm: float

    @property
    def skipped(self) -> bool:
        """As the train step decides it."""
        return not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))


class Skips:
    """Follows the loss and gradient norm of every step without a wait for the device.

    Each skipped step gets a line {'step': ..., 'skipped': 1} in the log. All processes fetch the
    same steps at the same time, so that all of them stop after the same one.

    Attributes:
      in_a_row: skipped steps up to the newest one that was fetched.
    """

    def __init__(self, config: ConfigDict, log: MetricLog, report: Callable[[list[Step]], str]):
        """report: writes the file about steps in a row, and returns its path."""
        self._config, self._log, self._report = config, log, report
        self._pending: list[tuple[int, jax.Array, jax.Array]] = []
        self._row: list[Step] = []
        self._mean, self._seen, self._reported = 0.0, 0, 0

    @property
    def in_a_row(self) -> int:
        return len(self._row)

    def add(self, step: int, metrics: Metrics) -> None:
        """Notes the results of a step, which may not be computed yet."""
        self._pending.append((step, metrics['loss'], metrics['grad_norm']))
        if len(self._pending) == 2 * CHUNK:
            self.fetch_until(self._pending[CHUNK - 1][0])

    def fetch_until(self, step: int) -> None:
        """Waits for the steps up to this one.

        Raises:
          UserError: config.max_skipped steps in a row were skipped.
        """
        count = sum(number <= step for number, _, _ in self._pending)
        ready, self._pending = self._pending[:count], self._pending[count:]
        for number, loss, norm in jax.device_get(ready):
            self._look_at(Step(int(number), float(loss), float(norm)))

    def _look_at(self, step: Step) -> None:
        if not step.skipped:
            self._row = []
            self._look_for_spike(step)
            return
        self._row.append(step)
        values = f'loss {step.loss} and gradient norm {step.grad_norm}'
        self._log.write(step.number, {'skipped': 1})
        print_once(f'warning: step {step.number} is skipped, with {values}')
        if len(self._row) >= self._config.max_skipped:
            rate = self._config.optimizer.peak_learning_rate
            raise UserError(
                f'{len(self._row)} steps in a row up to step {step.number} were skipped, the last '
                f'one with {values}: the run diverged; lower '
                f'config.optimizer.peak_learning_rate={rate}, or see docs/diagnosis.md and '
                f'{self._report(self._row)}'
            )

    def _look_for_spike(self, step: Step) -> None:
        far = step.number - self._reported >= MEAN_STEPS or not self._reported
        if self._seen >= MEAN_STEPS and step.loss > self._mean + SPIKE and far:
            self._reported = step.number
            print_once(
                f'warning: the loss of step {step.number} is {step.loss:.4f}, more than {SPIKE:g} '
                f'above the mean {self._mean:.4f} of the steps before'
            )
        self._seen += 1
        self._mean += (step.loss - self._mean) / min(self._seen, MEAN_STEPS)


def reporter(
    config: ConfigDict, workdir: epath.Path, train: list[tuple[Records, float]]
) -> Callable[[list[Step]], str]:
    """A function that writes <workdir>/diverged.json: steps, losses, norms and their records."""

    def write(steps: list[Step]) -> str:
        path = workdir / REPORT
        content = [
            {
                'step': step.number,
                'loss': str(step.loss),  # JSON has no NaN
                'grad_norm': str(step.grad_norm),
                'records': records_of(step.number, config, train),
            }
            for step in steps
        ]
        if is_primary():
            with writing(str(path)):
                write_json(path, {'skipped in a row': content})
        return str(path)

    return write


def records_of(step: int, config: ConfigDict, train: list[tuple[Any, float]]) -> list[str]:
    """The records of a step's batch, as 'record 17 of FILE'; steps count from 1."""
    sources = [source for source, _ in train]
    if config.data.shuffle == 'window':
        order = windowed.order_of(config, train)
        indices = window.batch_indices(order, step - 1, np.arange(config.batch_size))
    else:
        indices = sampler.batch_indices(
            step - 1,
            seed=config.seed,
            batch_size=config.batch_size,
            lengths=[len(source) for source in sources],
            weights=[weight for _, weight in train],
        )
    places = []
    for index in map(int, indices):
        number = 0
        while index >= len(sources[number]):
            index -= len(sources[number])
            number += 1
        places.append(sources[number].location(index))
    return places
