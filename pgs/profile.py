"""A trace of a few train steps, for TensorBoard's profiler or Perfetto."""

import os

import jax

from pgs.distributed import say

FIRST = 4  # of this run's steps: by then nothing is compiled or allocated for the first time


class Profile:
    """Traces `steps` steps from the FIRST on, into a folder that TensorBoard finds."""

    def __init__(self, folder: str | os.PathLike, *, steps: int):
        self._folder, self._steps, self._running = folder, steps, False

    def __enter__(self):
        return self

    def before(self, number: int) -> None:
        """To be called before the run's step `number`, from 1."""
        if self._steps and number == FIRST:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._running = True

    def after(self, number: int, result) -> None:
        """To be called after it, with what it returns: the trace ends when that is there."""
        if self._running and number == FIRST + self._steps - 1:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        say(f'Traced {self._steps} step(s) into {self._folder}: tensorboard --logdir shows them')

    def __exit__(self, *exc):
        if self._running:
            jax.profiler.stop_trace()
