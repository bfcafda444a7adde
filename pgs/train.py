"""The main job: train(config, workdir), from start-up to scores and figures."""

import math
import os
import time

import jax

from input_pipeline import pipeline, sampler, sources
from pgs import checkpoint, distributed, init_from, scores, sharding
from pgs import workdir as workdirs
from pgs.build import build
from pgs.distributed import say
from pgs.errors import UserError
from pgs.evals import in_training
from pgs.evals.embedding import make_embedder
from pgs.interrupt import Interrupt, Stopped
from pgs.metrics import MetricLog, Progress
from pgs.profile import Profile
from pgs.step import check_microbatches, init_state, lower_train_step

EVAL_BATCH = 64  # images or texts that all devices embed at once


def check_config(config) -> None:
    """Raises UserError for a config that cannot run. Reads nothing, writes nothing."""
    for key in ('batch_size', 'log_every', 'checkpoint_every', 'checkpoints_kept', 'epochs'):
        if config[key] < 1:
            raise UserError(f'config.{key}={config[key]} must be at least 1')
    if config.total_steps is not None and config.total_steps < 1:
        raise UserError(f'config.total_steps={config.total_steps} must be at least 1')
    low, high = config.data.crop_scale
    if not 0.0 < low <= high <= 1.0:
        raise UserError(
            f'config.data.crop_scale={(low, high)} must be 0 < smallest <= largest <= 1'
        )
    if config.profile_steps < 0:
        raise UserError(f'config.profile_steps={config.profile_steps} must be at least 0')
    build(config, total_steps=config.total_steps or 1, platform=jax.default_backend())


def train(config, workdir: str | os.PathLike) -> dict:
    """Trains the model that config describes, or resumes it, then scores it.

    Where several processes run the job, all call this with the same arguments.

    Args:
      config: as configs/base.py; not changed.
      workdir: folder or gs:// address, for config.json, metrics.jsonl, checkpoints/, figures/,
        results.json; all processes see the same one.

    Returns:
      The content of results.json; {} on all processes but the first.

    Raises:
      UserError: bad config, data or folder, before anything is written; a diverged loss.
    """
    # --- Check, before anything is written ---
    check_config(config)
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    check_microbatches(config, mesh.size)
    train_sources = distributed.primary_first(lambda: sources.open_train(config.data))
    sampler.batch_shares([weight for _, weight in train_sources], config.batch_size)
    held_out_source = sources.open_held_out(config.data)
    pairs = sum(len(source) for source, _ in train_sources)
    config = config.copy_and_resolve_references()
    if config.total_steps is None:
        config.total_steps = config.epochs * math.ceil(pairs / config.batch_size)
    total = config.total_steps
    workdir = workdirs.absolute(workdir)
    job = build(config, total_steps=total, platform=jax.default_backend())
    embedder = make_embedder(job.model, mesh, EVAL_BATCH)
    score_held_out = scores.held_out_scorer(embedder, held_out_source)
    run_evals = in_training.make_evals(config, embedder)
    initial = init_from.read_initial(config, workdir)
    distributed.on_primary(lambda: workdirs.prepare(workdir, config.to_dict()))

    # --- Build ---
    image, text = config.model.image, config.model.text
    state = init_state(job.model, job.optimizer, config.seed, mesh)
    manager = checkpoint.open_manager(workdir / 'checkpoints', keep=config.checkpoints_kept)
    if manager.latest_step() is not None:
        state = checkpoint.restore(manager, state)
    elif initial is not None:
        state = init_from.place(state, initial)
        initial = None  # a copy of the weights on the host, needed no longer
    start = int(state.step)

    names = ' and '.join(row[0] for row in config.data.mixture) or config.data.name
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    hosts = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    axes = f' (data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]})' if mesh.size > 1 else ''
    say(
        f'CLIP-PGS: {parameters / 1e6:.1f} M parameters, {pairs} pairs of {names}, '
        f'mask {config.masking.strategy}, batch {config.batch_size} on {mesh.size} '
        f'{jax.default_backend()} device(s){axes}{hosts}, {config.model.dtype} precision'
    )
    say(f'{"Resumes" if start else "Starts"} at step {start} of {total} in {workdir}')
    if config.optimizer.warmup_steps >= total:
        say(
            f'Note: the warm-up ({config.optimizer.warmup_steps} steps) is as long as the run: '
            'the learning rate never reaches its peak'
        )

    log = MetricLog(workdir if distributed.is_primary() else None, resume_step=start)
    if held_out_source is None:
        say(f'No split {config.data.validation_split!r}: nothing is scored on held-out pairs')

    def log_scores(step, found):
        if found := {f'eval/{name}': v for name, v in found.items() if v is not None}:
            log.write(step, found)

    def log_evals(step, params):
        found = score_held_out(params) if in_training.HELD_OUT in config.evals else {}
        found = found | run_evals(params)
        log_scores(step, found)
        say(in_training.line(step, found))

    # A run shorter than one pass over the held-out pairs is a smoke test: its start tells nothing.
    if start == 0 and total * config.batch_size >= len(held_out_source or ()):
        log_scores(0, score_held_out(state.params))

    # --- Train ---
    rate = 0.0
    if start < total:
        rows = sharding.process_rows(mesh, config.batch_size)
        batches = pipeline.train_batches(
            train_sources,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=start,
            total_steps=total,
            image_size=image.image_size,
            context_length=text.context_length,
            crop_scale=config.data.crop_scale,
            rows=rows,
        )
        on_devices = (sharding.to_devices(mesh, batch, rows) for batch in batches)
        profile = Profile(workdir / 'profile', steps=config.profile_steps)
        state, rate = run_loop(
            state, job.train_step, on_devices, mesh, config, manager, log, profile, log_evals
        )
        manager.wait_until_finished()
        if int(state.step) < total:
            log.close()
            raise Stopped(
                f'stopped at step {int(state.step)} of {total}, checkpoint saved: '
                f'the same command with --workdir={workdir} goes on'
            )

    # --- Score ---
    held_out, others = score_held_out(state.params), run_evals(state.params)
    log_scores(total, held_out | others)
    if others:
        say(in_training.line(total, others))
    log.close()
    params = sharding.to_host(mesh, state.params)
    if not distributed.is_primary():
        return {}
    return scores.finish(config, job.model, params, train_sources[0][0], held_out, rate, workdir)


def run_loop(state, train_step, batches, mesh, config, manager, log, profile, log_evals):
    """Steps until the batches end or an interrupt comes; returns (state, pairs a second).

    The results of a step are fetched once the next one is under way, so that the device never
    waits for the log.
    """
    total, start = config.total_steps, int(state.step)
    batch = next(batches)
    clock = time.perf_counter()
    # Compiled ahead of time for these very shapes: a second compilation cannot happen.
    compiled = lower_train_step(train_step, mesh, state, batch).compile()
    say(f'Compiled the train step in {time.perf_counter() - clock:.1f} s')

    progress = Progress(start_step=start, total_steps=total, batch_size=config.batch_size)
    pending = None

    def emit(step, metrics):
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(scalars['loss']):
            raise UserError(
                f'the loss is {scalars["loss"]} at step {step}: the run diverged; lower '
                f'config.optimizer.peak_learning_rate={config.optimizer.peak_learning_rate}'
            )
        scalars['pairs_per_second'] = progress.update(step)
        log.write(step, scalars)
        say(progress.line(step, scalars))

    with Interrupt() as interrupt, profile:
        for step in range(start + 1, total + 1):
            profile.before(step - start)
            state, metrics = compiled(state, batch)
            profile.after(step - start, metrics)
            if pending:
                emit(*pending)
            due = step % config.log_every == 0 or step == total
            pending = (step, metrics) if due else None
            stop = interrupt.requested or manager.reached_preemption(step)
            due = config.evals and config.eval_every and step % config.eval_every == 0
            if due and step < total and not stop:  # the end is scored after the loop
                if pending:
                    emit(*pending)
                    pending = None
                clock = time.perf_counter()
                log_evals(step, state.params)
                progress.leave_out(time.perf_counter() - clock)
            if stop or step == total or step % config.checkpoint_every == 0:
                checkpoint.save(manager, step, state)
            if stop:
                break
            if step < total:
                batch = next(batches)
        if pending:
            emit(*pending)
    return state, progress.mean_rate()
