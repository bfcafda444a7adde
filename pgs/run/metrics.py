"""The metrics of a run: metrics.jsonl, TensorBoard and one console line."""

import json
import os
import time

from clu import metric_writers
from etils import epath

from pgs.utils.console import format_seconds
from pgs.utils.files import replacing


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Records of a metrics.jsonl, oldest first; a last line that was cut off is ignored."""
    records = []
    file = epath.Path(path)
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class MetricLog:
    """Writes scalars by step.

    A run that resumes at step n removes the lines after n, because it will write them again: the
    file ends as that of an uninterrupted run. Without a workdir nothing is written; of several
    processes only the first one writes.
    """

    def __init__(self, workdir: epath.Path | None, *, resume_step: int):
        self._file = None
        if workdir is None:
            return
        self._path = workdir / 'metrics.jsonl'
        kept = [r for r in read_metrics(self._path) if r['step'] <= resume_step]
        with replacing(self._path) as file:
            file.write(''.join(json.dumps(r) + '\n' for r in kept).encode())
        self._file = self._path.open('a')
        # A separate thread writes the events, so that the loop does not wait for a slow disk.
        self._tensorboard = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({'step': step} | scalars) + '\n')
        self._file.flush()
        self._tensorboard.write_scalars(step, scalars)

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
