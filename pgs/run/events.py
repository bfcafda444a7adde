"""TensorBoard's events of a run. metrics.jsonl has the same values, so a failure here ends nothing."""

import os
from collections.abc import Callable

from clu import metric_writers

from pgs.utils.distributed import print_once


class Events:
    """Writes scalars in a thread of its own, so that the loop does not wait for a slow disk.

    Attributes:
      failed: number of calls that failed; the first one is reported when it happens.
    """

    def __init__(self, workdir: str | os.PathLike):
        self._workdir, self.failed = os.fspath(workdir), 0
        self._writer: metric_writers.MetricWriter | None = None
        self._try(self._open)

    def _open(self) -> None:
        writer = metric_writers.SummaryWriter(self._workdir)
        self._writer = metric_writers.AsyncWriter(writer)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Hands scalars to the thread."""
        if self._writer is not None:
            writer = self._writer
            self._try(lambda: writer.write_scalars(step, scalars))

    def close(self) -> None:
        """Waits for the thread, and reports the number of failures."""
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None
        if self.failed > 1:
            print_once(f'warning: {self.failed} writes for TensorBoard failed')

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # TensorFlow's, OSError, or one of the thread's
            self.failed += 1
            if self.failed == 1:
                cause: BaseException = error
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                reason = (str(cause) or repr(cause)).splitlines()[0]
                print_once(
                    f'warning: cannot write events for TensorBoard in {self._workdir} ({reason}): '
                    'the run goes on, metrics.jsonl has every value'
                )
