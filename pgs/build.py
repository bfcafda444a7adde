"""From a config to its parts, and all checks of a config that need no data.

Nothing runs here but the configured mask, on two small images; nothing is written.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from input_pipeline import sampler, sources, text_masking
from input_pipeline.tokenizer import VOCAB_SIZE
from pgs.config_table import check_values
from pgs.depth import TOWERS, freezes, hold_frozen
from pgs.errors import UserError
from pgs.masking.selection import PatchSelection
from pgs.masking.strategies import (
    check_output,
    configured,
    configured_calibration,
    selection_shape,
)
from pgs.masking.whole_images import keep_some_whole
from pgs.models import CLIP, build_model
from pgs.optimizer import build_optimizer, build_schedule
from pgs.sharding import mesh_shape
from pgs.step import TrainStep, make_train_step

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
MAX_PATCHES = 4096  # of an image: PGS compares all pairs of patches


Strategy = Callable[..., PatchSelection]


class Job(NamedTuple):
    """The parts that a config describes; see the functions that build each."""

    model: CLIP
    optimizer: optax.GradientTransformation
    strategy: Strategy  # of pgs.masking.configured, with config.masking.whole_share
    train_step: TrainStep
    unmasked_step: TrainStep  # the same without a mask, for the end of a run (config.masking.until)


def build(
    config: ConfigDict, *, total_steps: int, platform: str, seed: int | jax.Array | None = None
) -> Job:
    """The parts of the train step.

    Args:
      config: as configs/base.py.
      total_steps: of the run; the learning rate and the mask's progress follow it.
      platform: 'cpu', 'gpu' or 'tpu', where the step will run.
      seed: of the steps, in place of config.seed: a traced one makes one program for many seeds.

    Raises:
      UserError: invalid settings of the model, the mask or the optimiser.
    """
    image = config.model.image
    dtype = compute_dtype(config.model.dtype, platform)
    model = build_model(config.model, dtype=dtype, platform=platform)
    plain = configured(config.masking, image.patch_size)
    check_output(config.masking.strategy, plain, image.image_size, image.patch_size)
    configured_calibration(config.masking, image.patch_size, model.image.num_patches)  # checks it
    strategy = keep_some_whole(plain, config.masking.whole_share, config.masking.budget_group)
    tail = last_masked_step(config, total_steps)
    schedule = build_schedule(
        config.optimizer, total_steps, tail_start=tail if tail < total_steps else None
    )
    optimizer = build_optimizer(config.optimizer, schedule)
    options: dict[str, Any] = {
        'clip_norm': config.optimizer.clip_norm,
        'weights_ema': config.weights_ema,
    }
    if freezes(config.optimizer):
        options['hold'] = functools.partial(hold_frozen, config.optimizer)
    masked, unmasked = (
        make_train_step(
            model,
            optimizer,
            schedule,
            select,
            seed=config.seed if seed is None else seed,
            total_steps=total_steps,
            microbatches=config.microbatches,
            **options,
        )
        for select in (strategy, None)
    )
    return Job(model, optimizer, strategy, masked, unmasked)


def last_masked_step(config: ConfigDict, total_steps: int) -> int:
    """The last step that masks images: config.masking.until of the run, rounded."""
    return round(config.masking.until * total_steps)


def compute_dtype(name: str, platform: str) -> Any:
    """The dtype that config.model.dtype names; 'auto' is float32 on 'cpu', bfloat16 elsewhere."""
    if name == 'auto':
        name = 'float32' if platform == 'cpu' else 'bfloat16'
    return DTYPES[name]


def check_config(config: ConfigDict, *, devices: int, platform: str) -> None:
    """Checks every value of a config that can be checked without its data.

    Data, weights to start from and evaluation sets are checked where they are opened, which is
    before anything is written as well.

    Args:
      config: as configs/base.py.
      devices: number of devices of all processes.
      platform: as for `build`.

    Raises:
      UserError: an invalid value, by its key, with the remedy.
    """
    check_values(config)
    check_sizes(config.model)
    check_frozen(config)
    text_masking.check_length(config.text_masking, config.model.text.context_length)
    if config.checkpoint_best and not (config.evals and config.eval_every):
        raise UserError(
            f'config.checkpoint_best={config.checkpoint_best} needs scores while the run goes on: '
            "set config.evals, such as ('held_out',), and config.eval_every"
        )
    weights = [weight for _, _, weight in sources.mixture_rows(config.data)]
    sampler.batch_shares(weights, config.batch_size)
    check_window(config, weights)
    mesh_shape(config.mesh, config.batch_size, devices)
    job = build(config, total_steps=config.total_steps or 1, platform=platform)
    check_microbatches(config, job.strategy, devices)


def check_window(config: ConfigDict, weights: Sequence[float]) -> None:
    """Checks the streams of config.data.shuffle='window'; no-op with another shuffle.

    Args:
      config: as configs/base.py.
      weights: of the training data.

    Raises:
      UserError: streams that do not divide the batch, or that are too short for a mixture.
    """
    if config.data.shuffle != 'window':
        return
    streams, batch = config.data.window_streams, config.batch_size
    if batch % streams:
        near = [n for n in range(1, batch + 1) if batch % n == 0]
        near.sort(key=lambda n: abs(n - streams))
        raise UserError(
            f'config.data.window_streams={streams} does not divide batch_size={batch}: take '
            f'{" or ".join(map(str, sorted(near[:2])))}'
        )
    least = min(weights) / sum(weights) * batch / streams
    if len(weights) > 1 and least < 1:
        raise UserError(
            f'config.data.mixture: weight {min(weights)} gives less than one sample in the '
            f'{batch // streams} rows of each of config.data.window_streams={streams}: raise it, '
            'or lower window_streams'
        )


def check_sizes(model: ConfigDict) -> None:
    """Checks sizes of config.model that depend on each other; `build_model` has further checks.

    Raises:
      UserError: too few token ids, too many patches, or blocks without a hidden width.
    """
    if model.text.vocab_size < VOCAB_SIZE:
        raise UserError(
            f'config.model.text.vocab_size={model.text.vocab_size} is less than the {VOCAB_SIZE} '
            f"ids of CLIP's tokenizer: take {VOCAB_SIZE}"
        )
    image = model.image
    patches = (image.image_size // image.patch_size) ** 2
    if patches > MAX_PATCHES:
        raise UserError(
            f'config.model.image.image_size={image.image_size} with patch_size={image.patch_size} '
            f'makes {patches} patches: take sizes that make at most {MAX_PATCHES}'
        )
    for name in ('image', 'text'):
        width, ratio = model[name].width, model[name].mlp_ratio
        if int(width * ratio) < 1:
            raise UserError(
                f'config.model.{name}.mlp_ratio={ratio} leaves no hidden width for a width of '
                f'{width}: take at least {1 / width:g}'
            )


def check_frozen(config: ConfigDict) -> None:
    """Checks that config.optimizer leaves something to train.

    Raises:
      UserError: more frozen layers than a tower has, or two frozen towers.
    """
    for name in TOWERS:
        key, layers = f'frozen_{name}_layers', config.model[name].layers
        if config.optimizer[key] > layers:
            raise UserError(
                f'config.optimizer.{key}={config.optimizer[key]} is more than the {layers} layers '
                f'of the {name} tower: take at most {layers}'
            )
    if set(config.optimizer.frozen) == set(TOWERS):
        raise UserError(
            f'config.optimizer.frozen={config.optimizer.frozen} leaves nothing but the logit scale '
            'to train: name one tower'
        )


def check_microbatches(config: ConfigDict, strategy: Strategy, devices: int) -> None:
    """Checks that microbatches give what the whole batch would.

    Args:
      config: as configs/base.py.
      strategy: of `pgs.masking.configured`.
      devices: number of devices, which divides the batch.

    Raises:
      UserError: microbatches that do not divide the rows of each device, or that would cut up the
        groups of images that share a token budget, and so change masks.
    """
    count, local = config.microbatches, config.batch_size // devices
    if count < 1 or local % count:
        fitting = [n for n in range(1, local + 1) if local % n == 0]
        raise UserError(
            f'config.microbatches={count} does not divide the {local} pairs that each of '
            f'{devices} device(s) holds of batch_size={config.batch_size}: take one of '
            f'{", ".join(map(str, fitting))}'
        )
    image, rows = config.model.image, local // count
    shape = selection_shape(strategy, image.image_size, image.patch_size, config.batch_size)
    if count > 1 and shape.buckets is not None and rows % shape.buckets.group:
        raise UserError(
            f'config.microbatches={count} leaves {rows} pairs of a device at a time, which '
            f'masking.budget_group={shape.buckets.group} does not divide, so that masks would '
            f'change: take masking.budget_group={math.gcd(rows, shape.buckets.group)}, '
            'or masking.long_share=1'
        )
