"""The training loop: steps and what happens between them, until the end or a stop."""

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import jax
from orbax.checkpoint import CheckpointManager

from pgs import sharding
from pgs.build import last_masked_step
from pgs.errors import Stopped
from pgs.run import checkpoint, lock
from pgs.run.data import training_batches
from pgs.run.evaluations import HELD_OUT, scores_line
from pgs.run.held_out import Scores
from pgs.run.hooks import Hook, StepLog, lock_hook, save_hook, score_hook
from pgs.run.interrupt import Interrupt
from pgs.run.metrics import MetricLog, Progress
from pgs.run.opening import Run
from pgs.run.profiler import Trace
from pgs.run.programs import compile_programs
from pgs.run.saves import Saves
from pgs.run.skips import Skips, reporter
from pgs.run.text_budget import budget_line
from pgs.step import TrainState, TrainStep
from pgs.utils import phases
from pgs.utils.distributed import ends_together, print_once

DATA_PATIENCE = 20.0  # seconds that a request to stop waits for a batch, to save the state


def run_loop(
    run: Run,
    state: TrainState,
    log: MetricLog,
    manager: CheckpointManager,
    *,
    held: lock.Lock,
    last_step: int | None,
) -> tuple[TrainState, float]:
    """Trains until the last step, last_step or an interrupt; the state is saved then.

    Returns:
      (state, training pairs a second).

    Raises:
      Stopped: an interrupt or last_step; the state is saved.
    """
    with contextlib.closing(device_batches(run, int(state.step))) as batches:
        return train_on(run, state, batches, log, manager, held=held, last_step=last_step)


def train_on(
    run: Run,
    state: TrainState,
    batches: Generator[dict[str, jax.Array]],
    log: MetricLog,
    manager: CheckpointManager,
    *,
    held: lock.Lock,
    last_step: int | None,
) -> tuple[TrainState, float]:
    """Compiles the step and trains on batches; see `run_loop`."""
    config, start = run.config, int(state.step)
    again = f'the same command with --workdir={run.workdir}'
    phases.enter('data')
    first = next(batches)
    if config.model.text.tokens_per_pair is not None:
        print_once(budget_line(first['tokens'], config.model.text.tokens_per_pair))
    phases.enter('compile')
    program = compile_programs(
        run.job,
        run.mesh,
        state,
        first,
        last_masked=last_masked_step(config, config.total_steps),
        total=config.total_steps,
    )

    progress = Progress(
        start_step=start, total_steps=config.total_steps, batch_size=config.batch_size
    )
    skips = Skips(config, log, reporter(config, run.workdir, run.data.train))
    step_log = StepLog(config, log, progress, skips)
    saves = Saves(manager, config.failed_saves_allowed)
    with (
        saves_finished(manager),
        Interrupt(manager.reached_preemption) as interrupt,
        Trace(run.workdir / 'profile', steps=config.profile_steps) as trace,
        ends_together(),
    ):
        hooks: list[Hook] = [lock_hook(held), step_log, trace]
        if config.evals and config.eval_every:
            hooks.append(score_hook(config, step_log, interrupt, partial(score, run, log)))
        hooks.append(save_hook(config, saves, step_log))
        phases.set_outcome(f'steps since the last checkpoint are lost: {again} goes on there')
        chained: Iterator[dict[str, jax.Array]] = itertools.chain([first], batches)
        if last_step is not None:
            chained = itertools.islice(chained, max(last_step - start, 0))
        state = step_until_stopped(state, program, chained, hooks, interrupt)
        phases.enter('save', patience=math.inf)
        step_log.settle()  # a checkpoint never covers a step whose line is not written
        if int(state.step) % config.checkpoint_every or skips.in_a_row:  # not saved by the hook
            saves.save_last(int(state.step), state)
    if int(state.step) < config.total_steps:
        after = f' {interrupt.seconds():.1f} s after the signal' if interrupt.requested else ''
        raise Stopped(
            f'stopped at step {int(state.step)} of {config.total_steps}, checkpoint saved{after}: '
            f'{again} resumes it'
        )
    return state, progress.mean_rate()


@contextlib.contextmanager
def saves_finished(manager: CheckpointManager) -> Iterator[None]:
    """Waits at the end for checkpoints that are still being written.

    After an error as well, which an error of writing then does not replace.
    """
    try:
        yield
    except BaseException:
        with phases.phase('save', patience=math.inf), contextlib.suppress(Exception):
            checkpoint.wait(manager)
        raise
    checkpoint.wait(manager)


def step_until_stopped(
    state: TrainState,
    program: Callable[[int], TrainStep],
    batches: Iterator[dict[str, jax.Array]],
    hooks: Sequence[Hook],
    interrupt: Interrupt,
) -> TrainState:
    """One step for each batch, with all hooks after it, until the batches end or an interrupt."""
    for step, batch in enumerate(batches, int(state.step) + 1):
        phases.enter('step', patience=math.inf)
        state, metrics = program(step)(state, batch)
        interrupt.check(step)
        for hook in hooks:
            hook(step, state=state, metrics=metrics)
        if interrupt.requested:  # in one process, a signal during a hook stops after it
            break
        phases.enter('data', patience=DATA_PATIENCE)
    return state


def device_batches(run: Run, start: int) -> Generator[dict[str, jax.Array]]:
    """The global batches from step `start` to the last one, on the devices."""
    config = run.config
    rows = sharding.process_rows(run.mesh, config.batch_size)
    batches = training_batches(config, run.data, start, rows)
    return (sharding.to_devices(run.mesh, batch, rows) for batch in batches)


def score(run: Run, log: MetricLog, step: int, params: Any) -> None:
    """Scores of config.evals while the run goes on: to the log and the console."""
    held_out = run.scorers.held_out(params) if HELD_OUT in run.config.evals else {}
    scores = held_out | run.scorers.tasks(params)
    log_scores(log, step, scores)
    print_once(scores_line(step, scores))


def log_scores(log: MetricLog, step: int, scores: Scores) -> None:
    """Writes scores as eval/NAME; those that are None are left out."""
    if values := {f'eval/{name}': v for name, v in scores.items() if v is not None}:
        log.write(step, values)
