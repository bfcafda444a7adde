"""From a config to the parts of a train step. Nothing runs, nothing is allocated."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.strategies import selection_shape
from pgs.models import CLIP, build_model
from pgs.optimizer import build_optimizer, build_schedule
from pgs.step import make_train_step

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Job(NamedTuple):
    """What a config describes; see the functions that build each."""

    model: CLIP
    optimizer: optax.GradientTransformation
    strategy: Callable
    train_step: Callable


def compute_dtype(name: str, platform: str):
    """The dtype that config.model.dtype names; 'auto' is float32 on 'cpu', bfloat16 elsewhere.

    Raises:
      UserError: another name.
    """
    if name == 'auto':
        name = 'float32' if platform == 'cpu' else 'bfloat16'
    if name not in DTYPES:
        raise UserError(f'config.model.dtype={name!r} is unknown: take auto, float32 or bfloat16')
    return DTYPES[name]


def build(config, *, total_steps: int, platform: str) -> Job:
    """The parts of the train step.

    Args:
      config: as configs/base.py.
      total_steps: of the run; the schedule and the mask's progress follow it.
      platform: 'cpu', 'gpu' or 'tpu', where the step shall run.

    Raises:
      UserError: a model, a mask or an optimiser that cannot be.
    """
    image = config.model.image
    model = build_model(config.model, dtype=compute_dtype(config.model.dtype, platform))
    strategy = configured(config.masking, image.patch_size)
    # Tracing a strategy checks its options against the number of patches.
    selection_shape(strategy, image.image_size, image.patch_size)
    schedule = build_schedule(config.optimizer, total_steps)
    optimizer = build_optimizer(config.optimizer, schedule)
    train_step = make_train_step(
        model,
        optimizer,
        schedule,
        strategy,
        seed=config.seed,
        total_steps=total_steps,
        microbatches=config.microbatches,
    )
    return Job(model, optimizer, strategy, train_step)
