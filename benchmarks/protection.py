"""What the protection against faults costs: in the train step, and on the host between two steps.

  python -m benchmarks.protection [--rounds=9] [--steps=2000] [--out=runs/benchmarks/protection.json]

The step of the quickstart is compiled twice, with the select that skips updates which are not finite
and without it; the two take turns, and the ratio is taken round by round. The host's part is timed by
a loop with all hooks of every step (lock, skipped steps, log, phases, interrupt) around a step that
does nothing, against the same loop without them; it is stated as a share of the quickstart's step.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
from absl import flags
from etils import epath

from benchmarks import common
from configs import quickstart
from pgs.run import lock
from pgs.run.hooks import Hook, StepLog, lock_hook
from pgs.run.interrupt import Interrupt
from pgs.run.loop import step_until_stopped
from pgs.run.metrics import MetricLog, Progress
from pgs.run.skips import Skips
from pgs.step import TrainState
from pgs.utils import cli
from pgs.utils.files import write_json

ROUNDS = flags.DEFINE_integer('rounds', 9, 'Timed steps of each variant.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 2000, "Steps of the host's loop.", lower_bound=100)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 256, 'Pairs in a step.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/protection.json', 'Path of the results.')


def step_seconds(batch_size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the quickstart's step in each round: (with the select, without it)."""
    config = quickstart.get_config()
    config.batch_size = batch_size
    unprotected = mock.patch('pgs.step.keep_where_not_finite', lambda o, finite, new, old: new)
    runs = []
    for variant in (contextlib.nullcontext(), unprotected):
        with variant:
            runs.append(list(common.compiled_step(config)))
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            compiled, state, batch = runs[which]
            start = time.perf_counter()
            runs[which][1], _ = jax.block_until_ready(compiled(state, batch))
            if number:  # round 0 is a warm-up
                seconds[which].append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def all_hooks(steps: int) -> Iterator[list[Hook]]:
    """The hooks that a run calls after every step, in a folder of their own."""
    config = quickstart.get_config()
    config.update(total_steps=steps + 1, log_every=steps)
    with tempfile.TemporaryDirectory() as folder, lock.hold(epath.Path(folder)) as held:
        log = MetricLog(epath.Path(folder))
        progress = Progress(start_step=0, total_steps=steps + 1, batch_size=1)
        skips = Skips(config, log, lambda steps: folder)
        try:
            yield [lock_hook(held), StepLog(config, log, progress, skips)]
        finally:
            log.close()


def host_seconds(steps: int, hooks: list[Hook]) -> float:
    """Seconds of the host between two steps that do nothing."""
    metrics = {'loss': jnp.float32(1.0), 'grad_norm': jnp.float32(1.0)}
    state = TrainState(0, {}, {})  # type: ignore[arg-type]

    def program(number: int):
        return lambda state, batch: (state, metrics)

    with Interrupt(lambda step: False) as interrupt:
        start = time.perf_counter()
        step_until_stopped(state, program, iter([{}] * steps), hooks, interrupt)
        return (time.perf_counter() - start) / steps


def main(argv: list[str]) -> None:
    del argv
    protected, bare = step_seconds(BATCH_SIZE.value, ROUNDS.value)
    ratios = common.ratio(protected, bare)
    step = statistics.median(protected)
    with all_hooks(STEPS.value) as hooks:
        host = host_seconds(STEPS.value, hooks) - host_seconds(STEPS.value, [])
    print(
        f'Step of the quickstart, with the select over without it: {ratios["median"]:.4f} '
        f'({ratios["min"]:.4f}..{ratios["max"]:.4f}), {ROUNDS.value} rounds\n'
        f'Hooks of a step on the host: {host * 1e6:.0f} us, {host / step:.4%} of a step of '
        f'{step:.3f} s'
    )
    result = {'ratio': ratios, 'step_seconds': step, 'host_seconds': host}
    path = epath.Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result | common.machine())


if __name__ == '__main__':
    cli.run(main)
