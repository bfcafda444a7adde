"""A run's data and parts, opened before anything is written."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline import sources
from pgs import sharding
from pgs.build import Job, build
from pgs.depth import freezes, frozen_count
from pgs.inference.embedding import make_embedder
from pgs.inference.masking import scoring_mask
from pgs.run.calibration import with_calibration
from pgs.run.data import Data, check_window, open_data, with_total_steps
from pgs.run.evaluations import task_scorer
from pgs.run.held_out import Scores, held_out_scorer
from pgs.step import TrainState

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


def open_run(config: ConfigDict, workdir: epath.Path) -> Run:
    """Opens the data and builds the parts of a run; nothing is written but the data's cache."""
    data = open_data(config)
    config = with_total_steps(config, data.pairs)
    config = with_calibration(config, data, workdir)
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    check_window(config, data, mesh)
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
    axes = f' ({sharding.mesh_text(mesh.shape)})' if mesh.size > 1 else ''
    start, total = int(state.step), config.total_steps
    lines = [
        f'CLIP-PGS: {parameters / 1e6:.1f} M parameters, {run.data.pairs} pairs of {names}, '
        f'mask {config.masking.strategy}, batch {config.batch_size} on {mesh.size} '
        f'{jax.default_backend()} device(s){axes}{hosts}, {config.model.dtype} precision',
        f'{"Resumes" if start else "Starts"} at step {start} of {total} in {run.workdir}',
    ]
    if freezes(config.optimizer):
        frozen = frozen_count(config.optimizer, state.params)
        lines.append(f'Frozen: {frozen / 1e6:.1f} M of the parameters (config.optimizer.frozen...)')
    if config.weights_ema:
        lines.append('Scores and exports are of the average of the weights (config.weights_ema)')
    if config.optimizer.warmup_steps >= total:
        lines.append(
            f'Note: the warm-up ({config.optimizer.warmup_steps} steps) is as long as the run: '
            'the learning rate never reaches its peak'
        )
    if run.data.held_out is None:
        split = config.data.validation_split
        lines.append(f'No split {split!r}: nothing is scored on held-out pairs')
    return '\n'.join(lines)
