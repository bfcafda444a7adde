"""The main job: train(config, workdir), from the checks to scores and figures."""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import CheckpointManager

from input_pipeline import pipeline, sources
from pgs import sharding
from pgs.build import Job, build, check_config, last_masked_step
from pgs.inference.embedding import make_embedder
from pgs.inference.masking import scoring_mask
from pgs.run import checkpoint, init_from, lock, summary
from pgs.run import workdir as workdirs
from pgs.run.data import Data, is_smoke_test, open_data, with_total_steps
from pgs.run.evaluations import HELD_OUT, scores_line, task_scorer
from pgs.run.held_out import Scores, held_out_scorer
from pgs.run.hooks import Hook, StepLog, is_scored, lock_hook, save_hook, score_hook
from pgs.run.interrupt import Interrupt, Stopped
from pgs.run.metrics import MetricLog, Progress
from pgs.run.metrics_file import cut_back, is_logged
from pgs.run.profiler import Trace
from pgs.run.programs import compile_programs
from pgs.run.skips import Skips, reporter
from pgs.step import TrainState, TrainStep, init_state
from pgs.utils import distributed, exits, phases
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute

DATA_PATIENCE = 20.0  # seconds that a request to stop waits for a batch, to save the state
EVAL_BATCH = 64  # images or texts that all devices embed at once


class Scorers(NamedTuple):
    """Functions params -> scores."""

    held_out: Callable[[Any], Scores]
    tasks: Callable[[Any], dict[str, float]]


class Run(NamedTuple):
    """Everything that a run is made of, but for its state."""

    config: ConfigDict  # with total_steps
    workdir: epath.Path
    data: Data
    mesh: Mesh
    job: Job
    scorers: Scorers


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains the model that config describes, or resumes it, then scores it.

    Where several processes run the job, all call this with the same arguments.

    Args:
      config: as configs/base.py; not changed.
      workdir: folder or gs:// address, for config.json, metrics.jsonl, checkpoints/, figures/ and
        results.json; all processes see the same one.

    Returns:
      The content of results.json; {} on all processes but the first.

    Raises:
      UserError: bad config, data or folder, before anything is written; a diverged loss.
      Stopped: an interrupt; the same call resumes the run.
    """
    # --- Check and open everything; nothing is written yet ---
    phases.enter('open')
    check_config(config, devices=jax.device_count(), platform=jax.default_backend())
    run = open_run(config, absolute(workdir))
    initial = init_from.read_initial(run.config, run.workdir)
    with contextlib.ExitStack() as stack:  # closed in reverse, after an error or a signal as well
        held = stack.enter_context(lock.hold(run.workdir))
        distributed.on_primary(lambda: workdirs.prepare(run.workdir, run.config.to_dict()))
        distributed.on_primary(lambda: checkpoint.set_damaged_aside(run.workdir))
        return train_and_score(run, initial, held, stack)


def train_and_score(
    run: Run, initial: dict[str, Any] | None, held: lock.Lock, stack: contextlib.ExitStack
) -> dict[str, Any]:
    """Starts or resumes a run in its folder; see `train`.

    Args:
      run: as open_run returns it.
      initial: parameters of init_from.read_initial.
      held: the lock of the folder.
      stack: closes what is opened here.
    """
    config, total = run.config, run.config.total_steps

    # --- Start or resume ---
    manager = stack.enter_context(
        exits.closed(
            checkpoint.open_manager(
                run.workdir / 'checkpoints',
                keep=config.checkpoints_kept,
                keep_every=config.checkpoints_kept_every,
                best=config.checkpoint_best,
            )
        )
    )
    state = init_state(run.job.model, run.job.optimizer, config.seed, run.mesh)
    if manager.latest_step() is not None:
        state = checkpoint.restore(manager, state)
    elif initial is not None:
        state = init_from.place(state, initial)
    del initial  # a copy of all weights on the host
    start = int(state.step)
    again = f'the same command with --workdir={run.workdir}'
    phases.set_outcome(f'nothing is lost: {again} goes on at step {start} of {total}')
    print_once(start_lines(run, state))
    distributed.on_primary(lambda: cut_back(run.workdir, resume_step=start, total_steps=total))
    log = MetricLog(run.workdir if distributed.is_primary() else None)
    stack.enter_context(exits.closed(log))
    phases.enter('score')
    if start == 0 and not is_smoke_test(run.config, run.data):
        log_scores(log, 0, run.scorers.held_out(state.params))
    if is_scored(config, start) and not distributed.agree(lambda: is_logged(run.workdir, start)):
        score(run, log, start, state.params)  # an interrupt came before

    # --- Train ---
    rate = 0.0
    if start < total:
        state, rate = run_loop(run, state, log, manager, held)

    # --- Score ---
    phases.enter('score')
    phases.set_outcome(f'the training is complete and saved: {again} scores it')
    held_out, tasks = run.scorers.held_out(state.params), run.scorers.tasks(state.params)
    log_scores(log, total, held_out | tasks)
    if tasks:
        print_once(scores_line(total, tasks))
    params = sharding.to_host(run.mesh, state.params)
    if not distributed.is_primary():
        return {}
    phases.enter('figures')
    source = run.data.train[0][0]
    return summary.finish(
        run.config, run.job.model, params, source, held_out, rate=rate, workdir=run.workdir
    )


def open_run(config: ConfigDict, workdir: epath.Path) -> Run:
    """Opens the data and builds the parts of a run; nothing is written but the data's cache."""
    data = open_data(config)
    config = with_total_steps(config, data.pairs)
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    job = build(config, total_steps=config.total_steps, platform=jax.default_backend())
    embedder = make_embedder(job.model, mesh, EVAL_BATCH)
    mask = scoring_mask(config.masking, job.model.image) if config.eval_masked else None
    masked = make_embedder(job.model, mesh, EVAL_BATCH, mask) if mask else None
    held_out = held_out_scorer(embedder, data.held_out, masked)
    scorers = Scorers(held_out, task_scorer(config, embedder))
    return Run(config, workdir, data, mesh, job, scorers)


def start_lines(run: Run, state: TrainState) -> str:
    """What is trained, on what, and where it starts: a few lines for the console."""
    config, mesh = run.config, run.mesh
    names = ' and '.join(name for name, _, _ in sources.mixture_rows(config.data))
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    hosts = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    axes = f' (data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]})' if mesh.size > 1 else ''
    start, total = int(state.step), config.total_steps
    lines = [
        f'CLIP-PGS: {parameters / 1e6:.1f} M parameters, {run.data.pairs} pairs of {names}, '
        f'mask {config.masking.strategy}, batch {config.batch_size} on {mesh.size} '
        f'{jax.default_backend()} device(s){axes}{hosts}, {config.model.dtype} precision',
        f'{"Resumes" if start else "Starts"} at step {start} of {total} in {run.workdir}',
    ]
    if config.optimizer.warmup_steps >= total:
        lines.append(
            f'Note: the warm-up ({config.optimizer.warmup_steps} steps) is as long as the run: '
            'the learning rate never reaches its peak'
        )
    if run.data.held_out is None:
        split = config.data.validation_split
        lines.append(f'No split {split!r}: nothing is scored on held-out pairs')
    return '\n'.join(lines)


def log_scores(log: MetricLog, step: int, scores: Scores) -> None:
    """Writes scores as eval/NAME; those that are None are left out."""
    if values := {f'eval/{name}': v for name, v in scores.items() if v is not None}:
        log.write(step, values)


def score(run: Run, log: MetricLog, step: int, params: Any) -> None:
    """Scores of config.evals while the run goes on: to the log and the console."""
    held_out = run.scorers.held_out(params) if HELD_OUT in run.config.evals else {}
    scores = held_out | run.scorers.tasks(params)
    log_scores(log, step, scores)
    print_once(scores_line(step, scores))


def run_loop(
    run: Run, state: TrainState, log: MetricLog, manager: CheckpointManager, held: lock.Lock
) -> tuple[TrainState, float]:
    """Trains until the last step; the state is saved then.

    Returns:
      (state, training pairs a second).

    Raises:
      Stopped: an interrupt; the state is saved.
    """
    with contextlib.closing(device_batches(run, int(state.step))) as batches:
        return train_on(run, state, batches, log, manager, held)


def train_on(
    run: Run,
    state: TrainState,
    batches: Generator[dict[str, jax.Array]],
    log: MetricLog,
    manager: CheckpointManager,
    held: lock.Lock,
) -> tuple[TrainState, float]:
    """Compiles the step and trains on batches; see `run_loop`."""
    config, start = run.config, int(state.step)
    again = f'the same command with --workdir={run.workdir}'
    phases.enter('data')
    first = next(batches)
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
    with (
        saves_finished(manager),
        Interrupt(manager.reached_preemption) as interrupt,
        Trace(run.workdir / 'profile', steps=config.profile_steps) as trace,
    ):
        hooks: list[Hook] = [lock_hook(held), step_log, trace]
        if config.evals and config.eval_every:
            hooks.append(score_hook(config, step_log, interrupt, partial(score, run, log)))
        hooks.append(save_hook(config, manager, step_log))
        phases.set_outcome(f'steps since the last checkpoint are lost: {again} goes on there')
        chained = itertools.chain([first], batches)
        state = step_until_stopped(state, program, chained, hooks, interrupt)
        phases.enter('save', patience=math.inf)
        step_log.settle()  # a checkpoint never covers a step whose line is not written
        if int(state.step) % config.checkpoint_every or skips.in_a_row:  # not saved by the hook
            checkpoint.save(manager, int(state.step), state)
    if int(state.step) < config.total_steps:
        raise Stopped(
            f'stopped at step {int(state.step)} of {config.total_steps}, checkpoint saved '
            f'{interrupt.seconds():.1f} s after the signal: {again} resumes it'
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
    batches = pipeline.train_batches(
        run.data.train,
        seed=config.seed,
        batch_size=config.batch_size,
        start_step=start,
        total_steps=config.total_steps,
        image_size=config.model.image.image_size,
        context_length=config.model.text.context_length,
        crop_scale=config.data.crop_scale,
        mask_text=run.data.mask_text,
        rows=rows,
    )
    return (sharding.to_devices(run.mesh, batch, rows) for batch in batches)
