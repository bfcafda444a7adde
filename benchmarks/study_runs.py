"""The runs of benchmarks.study: what is compared, how long each trains, and one run.

Shape: N held-out pairs.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from configs import study
from pgs.build import last_masked_step
from pgs.evaluate.retrieval import match_ranks
from pgs.inference.embedding import make_embedder
from pgs.inference.masking import WHOLE, scoring_mask
from pgs.masking.starvation import starved_share
from pgs.run.held_out import features_of
from pgs.run.loop import device_batches
from pgs.run.masks import measure_retention
from pgs.run.opening import EVAL_BATCH, Run, open_run
from pgs.run.programs import compile_programs
from pgs.run.starved import IMAGES, seen_patches, spread_images
from pgs.step import init_state
from pgs.utils.files import absolute

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
    config: ConfigDict, folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains a run from its start to its end, and ranks the held-out pairs.

    Args:
      config: of variant_config.
      folder: for files that a strategy's calibration leaves there.

    Returns:
      (ranks, figures): ranks of 'text' (captions found for an image) and 'image', int (N,), 0 for
      the pair's own before all others, as `match_ranks` gives them, and of both for images that are
      masked as in training, if the variant masks images; figures: the last step's loss, the mean
      masked share, and of the trained model object retention and the share of starved patches of
      held-out images, None where the variant has no mask.
    """
    quiet = io.StringIO()  # one progress bar is enough: that of the whole study
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        run = open_run(config, absolute(folder))
        params, metrics = trained(run)
        retention = measure_retention(config, run.job.model, params, run.data.held_out)
        starved = measure_starvation(run, params)
        found = ranks(run, params)
    figures = {
        'loss': float(metrics[-1]['loss']),
        'masked': float(np.mean([float(m['mask_ratio']) for m in metrics])),
        'retention': retention.share if retention else None,
        'starved': starved,
    }
    return found, figures


def measure_starvation(run: Run, params: Any) -> float | None:
    """See train_and_rank."""
    if run.config.masking.strategy == WHOLE:
        return None
    assert run.data.held_out is not None
    images = spread_images(run.data.held_out, IMAGES, run.job.model.image.image_size)
    return starved_share(seen_patches(run.config, run.job.model, params, images))


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


def ranks(run: Run, params: Any) -> dict[str, np.ndarray]:
    """See train_and_rank."""
    assert run.data.held_out is not None
    mask = scoring_mask(run.config.masking, run.job.model.image)
    embedders = [
        make_embedder(run.job.model, run.mesh, EVAL_BATCH, m).with_params(params)
        for m in [None, *([mask] if mask else [])]
    ]
    texts, *images = features_of(embedders, run.data.held_out)
    found = {}
    for prefix, seen in zip(('', 'masked '), images, strict=False):
        ids = np.arange(len(texts))
        found[f'{prefix}text'] = match_ranks(seen, ids, texts, ids)
        found[f'{prefix}image'] = match_ranks(texts, ids, seen, ids)
    return found
