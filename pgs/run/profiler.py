"""A trace of a few train steps, for TensorBoard's profiler or Perfetto."""

import os

import jax

from pgs.step import Metrics, TrainState
from pgs.utils.distributed import print_once

FIRST = 4  # step of this call that is traced first: nothing compiles or allocates anew any more


class Trace:
    """A hook that traces `steps` steps, from step FIRST on, into a folder that TensorBoard finds.

    clu's Profile stops without waiting for the device, and so can lose the last traced step.
    """

    def __init__(self, folder: str | os.PathLike, *, steps: int):
        self._folder, self._steps = folder, steps
        self._done, self._running = 0, False

    def __call__(self, step: int, *, metrics: Metrics, state: TrainState) -> None:
        del step, state
        self._done += 1
        if self._steps and self._done == FIRST - 1:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._running = True
        elif self._running and self._done == FIRST - 1 + self._steps:
            jax.block_until_ready(metrics)
            self._stop()
            print_once(
                f'Traced {self._steps} step(s) into {self._folder}: see tensorboard --logdir'
            )

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._running:
            self._stop()
