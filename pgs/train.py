"""The main job: train(config, workdir), from the checks to scores and figures."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint import CheckpointManager

from input_pipeline import pipeline, sources
from pgs import sharding
from pgs.build import Job, build, check_config
from pgs.inference.embedding import make_embedder
from pgs.run import checkpoint, init_from, summary
from pgs.run import workdir as workdirs
from pgs.run.evaluations import HELD_OUT, scores_line, task_scorer
from pgs.run.held_out import Scores, held_out_scorer
from pgs.run.hooks import Hook, StepLog, save_hook, score_hook
from pgs.run.interrupt import Interrupt, Stopped
from pgs.run.metrics import MetricLog, Progress
from pgs.run.profiler import Trace
from pgs.step import TrainState, TrainStep, init_state, lower_train_step
from pgs.utils import distributed
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute

EVAL_BATCH = 64  # images or texts that all devices embed at once


class Data(NamedTuple):
    """The opened data of config.data; images are not read yet."""

    train: list[tuple[sources.Records, float]]  # with the weight of each source
    held_out: sources.Records | None
    pairs: int  # of all training sources


class Scorers(NamedTuple):
    """Functions params -> scores."""

    held_out: Callable[[Any], Scores]
    tasks: Callable[[Any], dict[str, float]]


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
      Stopped: an interrupt; the same call resumes.
    """
    # --- Check and open; nothing is written before all of it is fine ---
    check_config(config, devices=jax.device_count(), platform=jax.default_backend())
    data = open_data(config.data)
    config = with_total_steps(config, data.pairs)
    workdir = absolute(workdir)
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    job = build(config, total_steps=config.total_steps, platform=jax.default_backend())
    embedder = make_embedder(job.model, mesh, EVAL_BATCH)
    scorers = Scorers(held_out_scorer(embedder, data.held_out), task_scorer(config, embedder))
    initial = init_from.read_initial(config, workdir)
    distributed.on_primary(lambda: workdirs.prepare(workdir, config.to_dict()))

    # --- Start or resume ---
    manager = checkpoint.open_manager(workdir / 'checkpoints', keep=config.checkpoints_kept)
    state = init_state(job.model, job.optimizer, config.seed, mesh)
    if manager.latest_step() is not None:
        state = checkpoint.restore(manager, state)
    elif initial is not None:
        state = init_from.place(state, initial)
    del initial  # a copy of all weights on the host
    start = int(state.step)
    print_once(start_lines(config, mesh, state, data, workdir))
    log = MetricLog(workdir if distributed.is_primary() else None, resume_step=start)

    # --- Train ---
    if start == 0 and not is_smoke_test(config, data):
        log_scores(log, 0, scorers.held_out(state.params))
    rate = 0.0
    if start < config.total_steps:
        state, rate = run_loop(config, job, mesh, state, data, scorers, log, manager, workdir)
        if int(state.step) < config.total_steps:
            log.close()
            raise Stopped(
                f'stopped at step {int(state.step)} of {config.total_steps}, checkpoint saved: '
                f'the same command with --workdir={workdir} goes on'
            )

    # --- Score ---
    held_out, tasks = scorers.held_out(state.params), scorers.tasks(state.params)
    log_scores(log, config.total_steps, held_out | tasks)
    if tasks:
        print_once(scores_line(config.total_steps, tasks))
    log.close()
    params = sharding.to_host(mesh, state.params)
    if not distributed.is_primary():
        return {}
    source = data.train[0][0]
    return summary.finish(config, job.model, params, source, held_out, rate, workdir)


def open_data(data_config: ConfigDict) -> Data:
    """Opens what config.data names; the embedded data set is built where it is absent."""
    train_sources = distributed.primary_first(lambda: sources.open_train(data_config))
    pairs = sum(len(source) for source, _ in train_sources)
    return Data(train_sources, sources.open_held_out(data_config), pairs)


def with_total_steps(config: ConfigDict, pairs: int) -> ConfigDict:
    """A copy of config whose total_steps is set: given, or by epochs and the size of the data."""
    config = config.copy_and_resolve_references()
    if config.total_steps is None:
        config.total_steps = config.epochs * math.ceil(pairs / config.batch_size)
    return config


def is_smoke_test(config: ConfigDict, data: Data) -> bool:
    """Whether a run is shorter than one pass over the held-out pairs; its start is not scored."""
    return config.total_steps * config.batch_size < len(data.held_out or ())


def start_lines(
    config: ConfigDict, mesh: Mesh, state: TrainState, data: Data, workdir: epath.Path
) -> str:
    """What is trained, on what, and where it starts: a few lines for the console."""
    names = ' and '.join(name for name, _, _ in sources.mixture_rows(config.data))
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    hosts = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    axes = f' (data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]})' if mesh.size > 1 else ''
    start, total = int(state.step), config.total_steps
    lines = [
        f'CLIP-PGS: {parameters / 1e6:.1f} M parameters, {data.pairs} pairs of {names}, '
        f'mask {config.masking.strategy}, batch {config.batch_size} on {mesh.size} '
        f'{jax.default_backend()} device(s){axes}{hosts}, {config.model.dtype} precision',
        f'{"Resumes" if start else "Starts"} at step {start} of {total} in {workdir}',
    ]
    if config.optimizer.warmup_steps >= total:
        lines.append(
            f'Note: the warm-up ({config.optimizer.warmup_steps} steps) is as long as the run: '
            'the learning rate never reaches its peak'
        )
    if data.held_out is None:
        split = config.data.validation_split
        lines.append(f'No split {split!r}: nothing is scored on held-out pairs')
    return '\n'.join(lines)


def log_scores(log: MetricLog, step: int, scores: Scores) -> None:
    """Writes scores as eval/NAME; those that are None are left out."""
    if found := {f'eval/{name}': v for name, v in scores.items() if v is not None}:
        log.write(step, found)


def run_loop(
    config: ConfigDict,
    job: Job,
    mesh: Mesh,
    state: TrainState,
    data: Data,
    scorers: Scorers,
    log: MetricLog,
    manager: CheckpointManager,
    workdir: epath.Path,
) -> tuple[TrainState, float]:
    """Trains until the last step or an interrupt, whose state is saved then.

    Returns:
      (state, training pairs a second).
    """
    start, total = int(state.step), config.total_steps
    batches = device_batches(config, mesh, data, start)
    batches, train_step = compile_step(job.train_step, mesh, state, batches)

    def score(step: int, params: Any) -> None:
        held_out = scorers.held_out(params) if HELD_OUT in config.evals else {}
        scores = held_out | scorers.tasks(params)
        log_scores(log, step, scores)
        print_once(scores_line(step, scores))

    progress = Progress(start_step=start, total_steps=total, batch_size=config.batch_size)
    step_log = StepLog(config, log, progress)
    with (
        Interrupt(manager.reached_preemption) as interrupt,
        Trace(workdir / 'profile', steps=config.profile_steps) as trace,
    ):
        hooks: list[Hook] = [step_log, trace]
        if config.evals and config.eval_every:
            hooks.append(score_hook(config, step_log, interrupt, score))
        hooks.append(save_hook(config, manager))
        state = step_until_stopped(state, train_step, batches, hooks, interrupt)
        if int(state.step) % config.checkpoint_every:  # not saved by the hook
            checkpoint.save(manager, int(state.step), state)
        step_log.flush()
    manager.wait_until_finished()
    return state, progress.mean_rate()


def step_until_stopped(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    hooks: Sequence[Hook],
    interrupt: Interrupt,
) -> TrainState:
    """One step for each batch, with all hooks after it, until the batches end or an interrupt."""
    for step, batch in enumerate(batches, int(state.step) + 1):
        state, metrics = train_step(state, batch)
        stop = interrupt.check(step)
        for hook in hooks:
            hook(step, state=state, metrics=metrics)
        if stop:
            break
    return state


def device_batches(
    config: ConfigDict, mesh: Mesh, data: Data, start: int
) -> Iterator[dict[str, jax.Array]]:
    """The global batches from step `start` to the last one, on the devices."""
    rows = sharding.process_rows(mesh, config.batch_size)
    batches = pipeline.train_batches(
        data.train,
        seed=config.seed,
        batch_size=config.batch_size,
        start_step=start,
        total_steps=config.total_steps,
        image_size=config.model.image.image_size,
        context_length=config.model.text.context_length,
        crop_scale=config.data.crop_scale,
        rows=rows,
    )
    return (sharding.to_devices(mesh, batch, rows) for batch in batches)


def compile_step(
    train_step: TrainStep,
    mesh: Mesh,
    state: TrainState,
    batches: Iterator[dict[str, jax.Array]],
) -> tuple[Iterator[dict[str, jax.Array]], TrainStep]:
    """(all batches again, the step compiled for their shapes); it cannot be compiled a second time."""
    first = next(batches)
    clock = time.perf_counter()
    compiled = lower_train_step(train_step, mesh, state, first).compile()
    print_once(f'Compiled the train step in {time.perf_counter() - clock:.1f} s')
    return itertools.chain([first], batches), compiled
