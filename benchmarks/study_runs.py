"""The runs of benchmarks.study: what is compared, how long each trains, and the runs of a variant.

Shapes: N held-out pairs, S seeds.
"""

import contextlib
import functools
import io
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.other_emoji import OtherEmoji
from configs import study
from pgs.build import build, last_masked_step
from pgs.evaluate.retrieval import match_ranks
from pgs.inference.embedding import make_embedder
from pgs.inference.masking import WHOLE, scoring_mask
from pgs.masking.starvation import starved_share
from pgs.run.data import training_batches
from pgs.run.held_out import features_of
from pgs.run.loop import device_batches
from pgs.run.masks import make_retention
from pgs.run.opening import EVAL_BATCH, Run, open_run
from pgs.run.programs import compile_programs
from pgs.run.starved import IMAGES, make_counter, spread_images
from pgs.step import TrainState, init_state, make_init
from pgs.utils.files import absolute

AHEAD = 3  # steps that wait on the device, of `trained_together`
# What is equal in all variants that are compared, and its title.
POINTS = {'steps': 'steps', 'flops': 'FLOPs', 'seconds': 'training seconds'}


def variant_config(name: str, *, data: str, batch_size: int, steps: int, seed: int) -> ConfigDict:
    """The config of a run of a variant of configs/study.py."""
    config = study.get_config(name)
    config.update(batch_size=batch_size, total_steps=steps, seed=seed)
    config.data.name = data
    config.optimizer.warmup_steps = max(steps // 8, 1)
    if config.masking.until < 1.0:
        config.optimizer.tail_warmup_steps = max(steps // 80, 1)
    return config


def flops_a_step(name: str, data: str, batch_size: int) -> float:
    """FLOPs of the matrix products of a mean step, with a tail of whole images in its share."""
    config = variant_config(name, data=data, batch_size=batch_size, steps=1000, seed=0)
    masked, share = common.step_flops(config), config.masking.until
    if share == 1.0:
        return masked
    config.masking.strategy, config.text_masking.context_length = WHOLE, 0
    return share * masked + (1.0 - share) * common.step_flops(config)


def train_and_rank(
    configs: Sequence[ConfigDict], folder: Path, shifted: Path | None = None
) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Trains runs from their start to their end, and ranks the held-out pairs.

    Args:
      configs: of variant_config; they differ in their seeds alone. Several are trained at once, by
        one program for all seeds, unless a calibration makes them differ in more.
      folder: for files that a strategy's calibration leaves there.
      shifted: folder of another vendor's emoji, see OtherEmoji.

    Returns:
      For each run (ranks, figures): ranks of 'text' (captions found for an image) and 'image', int
      (N,), 0 for the pair's own before all others, as `match_ranks` gives them; the same with
      'masked ' before the name, of images that are masked as in training, if the variant masks
      images; and with 'shifted ', of the other vendor's emoji, whole; figures: the last step's
      loss, the mean masked share, and of the trained model object retention and the share of
      starved patches of held-out images, None where the variant has no mask.
    """
    quiet = io.StringIO()  # one progress bar is enough: that of the whole study
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        runs = [open_run(config, absolute(folder)) for config in configs]
        if len(runs) > 1 and all(run.config.masking == runs[0].config.masking for run in runs):
            measure = make_measure(runs[0], shifted)
            return [measure(params, metrics) for params, metrics in trained_together(runs)]
        return [make_measure(run, shifted)(*trained(run)) for run in runs]


def trained(run: Run) -> tuple[Any, list[dict[str, Any]]]:
    """(parameters, metrics of each step) after all steps of a run."""
    config, job = run.config, run.job
    state = init_state(job.model, job.optimizer, config.seed, run.mesh, job.strategy)
    program, metrics = None, []
    with contextlib.closing(device_batches(run, 0)) as batches:
        for step, batch in enumerate(batches, 1):
            if program is None:
                last, total = last_masked_step(config, config.total_steps), config.total_steps
                program = compile_programs(
                    job, run.mesh, state, batch, last_masked=last, total=total
                )
            state, measured = program(step)(state, batch)
            metrics.append(measured)
    return state.params, metrics


def trained_together(runs: Sequence[Run]) -> list[tuple[Any, list[dict[str, Any]]]]:
    """`trained` for runs that differ in their seeds alone, on the default device.

    A step of one program is a step of all runs: it fills a GPU, and compiles once.
    """
    config, job = runs[0].config, runs[0].job
    total, platform = config.total_steps, jax.default_backend()
    seeds_S = jnp.array([run.config.seed for run in runs])

    def create(seed: jax.Array) -> TrainState:
        return make_init(job.model, job.optimizer, seed, job.strategy)()

    def one_step(seed: jax.Array, state: TrainState, batch: Any, whole: bool) -> Any:
        one = build(config, total_steps=total, platform=platform, seed=seed)
        return (one.unmasked_step if whole else one.train_step)(state, batch)

    step_all = {
        whole: jax.jit(jax.vmap(functools.partial(one_step, whole=whole)), donate_argnums=1)
        for whole in (False, True)
    }
    states = jax.jit(jax.vmap(create))(seeds_S)
    last, metrics = last_masked_step(config, total), []
    rows = np.arange(config.batch_size)
    with contextlib.ExitStack() as stack:
        batches = [
            stack.enter_context(contextlib.closing(training_batches(r.config, r.data, 0, rows)))
            for r in runs
        ]
        for step, of_runs in enumerate(zip(*batches, strict=True), 1):
            batch = jax.tree.map(lambda *parts: np.stack(parts), *of_runs)
            states, measured = step_all[step > last](seeds_S, states, batch)
            metrics.append(measured)
            jax.block_until_ready(metrics[-AHEAD:][0])  # batches of waiting steps take memory
    found_S, metrics = jax.device_get((states.params, metrics))
    return [
        jax.tree.map(operator.itemgetter(number), (found_S, metrics)) for number in range(len(runs))
    ]


def make_measure(
    run: Run, shifted: Path | None
) -> Callable[[Any, Any], tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """A function (params, metrics) -> what `train_and_rank` returns for a run.

    The masks that it measures have the random numbers of the given run, for all seeds.
    """
    config, model, held_out = run.config, run.job.model, run.data.held_out
    assert held_out is not None
    retain = make_retention(config, model, held_out)
    images = spread_images(held_out, IMAGES, model.image.image_size)
    count = make_counter(config, model)
    mask = scoring_mask(config.masking, model.image)
    embedders = [
        make_embedder(model, run.mesh, EVAL_BATCH, m) for m in [None, *([mask] if mask else [])]
    ]

    other = None if shifted is None else OtherEmoji(held_out, shifted, config.data.name)

    def ranks(params: Any) -> dict[str, np.ndarray]:
        ready = [e.with_params(params) for e in embedders]
        texts, *seen = features_of(ready, held_out)
        found = {}
        for prefix, features in zip(('', 'masked '), seen, strict=False):
            found |= ranks_of(features, texts, prefix)
        if other is not None:
            texts, features = features_of(ready[:1], other)
            found |= ranks_of(features, texts, 'shifted ')
        return found

    def measure(params: Any, metrics: list[dict[str, Any]]) -> Any:
        retention = retain(params)
        starved = None
        if config.masking.strategy != WHOLE:
            starved = starved_share(np.asarray(count(params, images)))
        figures = {
            'loss': float(metrics[-1]['loss']),
            'masked': float(np.mean([float(m['mask_ratio']) for m in metrics])),
            'retention': retention.share if retention else None,
            'starved': starved,
        }
        return ranks(params), figures

    return measure


def ranks_of(images_NxE: np.ndarray, texts_NxE: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """Ranks of both directions, see train_and_rank."""
    ids = np.arange(len(texts_NxE))
    return {
        f'{prefix}text': match_ranks(images_NxE, ids, texts_NxE, ids),
        f'{prefix}image': match_ranks(texts_NxE, ids, images_NxE, ids),
    }
