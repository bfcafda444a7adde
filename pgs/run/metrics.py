"""The metrics of a run: metrics.jsonl, TensorBoard, a tracker and one console line."""

import contextlib
import json
import os
import time

from etils import epath

from pgs.run.events import Events
from pgs.run.metrics_file import NAME
from pgs.run.metrics_file import read_metrics as read_metrics
from pgs.run.tracker import Tracker
from pgs.utils.console import format_seconds
from pgs.utils.files import writing

REMEDY = 'free or repair the disk; the same command resumes the run'


class MetricLog:
    """Writes scalars by step, at the end of metrics.jsonl, for TensorBoard and for a tracker.

    Without a workdir nothing is written; of several processes only the first one writes.
    """

    def __init__(self, workdir: epath.Path | None, tracker: Tracker | None = None):
        self._file, self._tracker = None, tracker
        if workdir is None:
            return
        self._path = workdir / NAME
        with writing(str(self._path), REMEDY):
            self._file = self._path.open('a')
        self._tensorboard = Events(workdir)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        if self._file is None:
            return
        with writing(str(self._path), REMEDY):
            self._file.write(json.dumps({'step': step} | scalars) + '\n')
            self._file.flush()
        self._tensorboard.write(step, scalars)
        if self._tracker is not None:
            self._tracker.write(step, scalars)

    def sync(self) -> None:
        """Waits until the lines are on the disk, so that a checkpoint never outlives them."""
        if self._file is None:
            return
        with contextlib.suppress(OSError, AttributeError):  # a file of gs:// has no descriptor
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._tensorboard.close()


class Progress:
    """Pairs a second and the remaining time, by the steps whose results have arrived."""

    def __init__(self, *, start_step: int, total_steps: int, batch_size: int):
        self._start, self._total, self._batch = start_step, total_steps, batch_size
        self._last_step = start_step
        self._first_time = self._last_time = time.perf_counter()

    def update(self, step: int) -> float:
        """Records that `step` steps are done; returns the pairs a second since the last call."""
        now = time.perf_counter()
        rate = (step - self._last_step) * self._batch / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        return rate

    def leave_out(self, seconds: float) -> None:
        """Excludes time that was not spent on training from the rates."""
        self._first_time += seconds
        self._last_time += seconds

    def mean_rate(self) -> float:
        """Pairs a second since the start, 0 before the first update."""
        elapsed = max(self._last_time - self._first_time, 1e-9)
        return (self._last_step - self._start) * self._batch / elapsed

    def eta(self) -> str:
        left = (self._total - self._last_step) * self._batch
        return format_seconds(left / self.mean_rate()) if self.mean_rate() else '?'

    def line(self, step: int, scalars: dict[str, float]) -> str:
        return (
            f'step {step:>{len(str(self._total))}}/{self._total}  loss {scalars["loss"]:.4f}  '
            f'{scalars["pairs_per_second"]:.1f} pairs/s  '
            f'masked {scalars["mask_ratio"]:.3f}  ETA {self.eta()}'
        )
