"""The main job: train(config, workdir), from start-up to scores and figures."""

import math
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from input_pipeline import pipeline, sampler, sources
from pgs import checkpoint, scores, sharding
from pgs import workdir as workdirs
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.strategies import selection_shape
from pgs.metrics import MetricLog, Progress
from pgs.models import build_model
from pgs.optimizer import build_optimizer, build_schedule
from pgs.step import init_state, jit_train_step, make_train_step

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def compute_dtype(name: str):
    """The dtype that config.model.dtype names; 'auto' is float32 on CPU, bfloat16 elsewhere."""
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    if name not in DTYPES:
        raise UserError(f'config.model.dtype={name!r} is unknown: take auto, float32 or bfloat16')
    return DTYPES[name]


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
    image = config.model.image
    build_model(config.model, dtype=compute_dtype(config.model.dtype))
    strategy = configured(config.masking, image.patch_size)
    # Tracing a strategy checks its options against the number of patches.
    selection_shape(strategy, image.image_size, image.patch_size)


class Stopped(Exception):
    """An interrupt ended the run after a step; its checkpoint is complete."""


class Interrupt:
    """Turns Ctrl-C and a scheduler's SIGTERM into a request to stop after the running step."""

    def __enter__(self):
        self.requested = False
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._before[number])  # a second one stops at once

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(config, workdir: str | Path) -> dict:
    """Trains the model that config describes, or resumes it, then scores it.

    Args:
      config: as configs/base.py; not changed.
      workdir: folder for config.json, metrics.jsonl, checkpoints/, figures/, results.json.

    Returns:
      The content of results.json.

    Raises:
      UserError: bad config, data or folder, before anything is written; a diverged loss.
    """
    # --- Check, before anything is written ---
    check_config(config)
    mesh = sharding.make_mesh(config.batch_size)
    train_sources = sources.open_train(config.data)
    sampler.batch_shares([weight for _, weight in train_sources], config.batch_size)
    held_out_source = sources.open_held_out(config.data)
    pairs = sum(len(source) for source, _ in train_sources)
    config = config.copy_and_resolve_references()
    if config.total_steps is None:
        config.total_steps = config.epochs * math.ceil(pairs / config.batch_size)
    total = config.total_steps
    workdir = workdirs.prepare(workdir, config.to_dict())

    # --- Build ---
    image, text = config.model.image, config.model.text
    model = build_model(config.model, dtype=compute_dtype(config.model.dtype))
    schedule = build_schedule(config.optimizer, total)
    optimizer = build_optimizer(config.optimizer, schedule)
    strategy = configured(config.masking, image.patch_size)
    state = init_state(model, optimizer, config.seed, mesh)
    manager = checkpoint.open_manager(workdir / 'checkpoints', keep=config.checkpoints_kept)
    if manager.latest_step() is not None:
        state = checkpoint.restore(manager, state)
    start = int(state.step)

    names = ' and '.join(row[0] for row in config.data.mixture) or config.data.name
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    print(
        f'CLIP-PGS: {parameters / 1e6:.1f} M parameters, {pairs} pairs of {names}, '
        f'mask {config.masking.strategy}, batch {config.batch_size} on {len(jax.devices())} '
        f'{jax.default_backend()} device(s), {config.model.dtype} precision'
    )
    print(f'{"Resumes" if start else "Starts"} at step {start} of {total} in {workdir}', flush=True)
    if config.optimizer.warmup_steps >= total:
        print(
            f'Note: the warm-up ({config.optimizer.warmup_steps} steps) is as long as the run: '
            'the learning rate never reaches its peak'
        )

    log = MetricLog(workdir, resume_step=start)
    if held_out_source is None:
        print(f'No split {config.data.validation_split!r}: nothing is scored on held-out pairs')
    score = scores.held_out_scorer(config, model, mesh, held_out_source)

    def log_scores(step):
        held_out = score(state.params)
        if held_out['n_eval']:
            log.write(step, {f'eval/{name}': value for name, value in held_out.items()})
        return held_out

    # A run shorter than one pass over the held-out pairs is a smoke test: its start tells nothing.
    if start == 0 and total * config.batch_size >= len(held_out_source or ()):
        log_scores(0)

    # --- Train ---
    rate = 0.0
    if start < total:
        batches = pipeline.train_batches(
            train_sources,
            seed=config.seed,
            batch_size=config.batch_size,
            start_step=start,
            total_steps=total,
            image_size=image.image_size,
            context_length=text.context_length,
            crop_scale=config.data.crop_scale,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        train_step = make_train_step(
            model, optimizer, schedule, strategy, seed=config.seed, total_steps=total
        )
        state, rate = run_loop(state, train_step, batches, mesh, config, manager, log)
        manager.wait_until_finished()
        if int(state.step) < total:
            log.close()
            raise Stopped(
                f'stopped at step {int(state.step)} of {total}, checkpoint saved: '
                f'the same command with --workdir={workdir} goes on'
            )

    # --- Score ---
    held_out = log_scores(total)
    log.close()
    return scores.finish(config, model, state.params, train_sources[0][0], held_out, rate, workdir)


def run_loop(state, train_step, batches, mesh, config, manager, log: MetricLog):
    """Steps until the batches end or an interrupt comes; returns (state, pairs a second).

    The results of a step are fetched once the next one is under way, so that the device never
    waits for the log.
    """
    total, start = config.total_steps, int(state.step)
    batch = sharding.to_devices(mesh, next(batches))
    clock = time.perf_counter()
    # Compiled ahead of time for these very shapes: a second compilation cannot happen.
    compiled = jit_train_step(train_step, mesh).lower(state, batch).compile()
    print(f'Compiled the train step in {time.perf_counter() - clock:.1f} s', flush=True)

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
        print(progress.line(step, scalars), flush=True)

    with Interrupt() as interrupt:
        for step in range(start + 1, total + 1):
            state, metrics = compiled(state, batch)
            if pending:
                emit(*pending)
            due = step % config.log_every == 0 or step == total
            pending = (step, metrics) if due else None
            stop = interrupt.requested or manager.reached_preemption(step)
            if stop or step == total or step % config.checkpoint_every == 0:
                checkpoint.save(manager, step, state)
            if stop:
                break
            if step < total:
                batch = sharding.to_devices(mesh, next(batches))
        if pending:
            emit(*pending)
    return state, progress.mean_rate()
