"""The train step: one pure function of a state and a batch."""

import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pgs.errors import UserError
from pgs.loss import info_nce
from pgs.masking.strategies import mask_ratio
from pgs.microbatches import loss_and_gradient
from pgs.models.clip import CLIP, MAX_LOG_SCALE, normalize_images
from pgs.sharding import batch_sharding, replicated, state_sharding


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and all that a checkpoint holds."""

    step: jax.Array  # int32 scalar: steps done
    params: Any  # float32
    opt_state: Any


def make_init(model: CLIP, optimizer: optax.GradientTransformation, seed: int):
    """() -> a fresh state; to be traced for its shapes, or jitted."""

    def create() -> TrainState:
        size, length = model.image['image_size'], model.text['context_length']
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        tokens = jnp.zeros((1, length), jnp.int32)
        params = model.init(jax.random.key(seed), images, tokens)['params']
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return create


def init_state(model: CLIP, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh):
    """A fresh state, created on the devices that hold it: none ever holds all of a split one."""
    create = make_init(model, optimizer, seed)
    return jax.jit(create, out_shardings=state_sharding(mesh, jax.eval_shape(create)))()


def check_microbatches(config, devices: int) -> None:
    """Checks that microbatches give what the whole batch would.

    Raises:
      UserError: microbatches that do not divide what each device holds, or that would cut up the
        groups of images which share a token budget, and so change masks.
    """
    count, local = config.microbatches, config.batch_size // devices
    if count < 1 or local % count:
        fitting = [n for n in range(1, local + 1) if local % n == 0]
        raise UserError(
            f'config.microbatches={count} does not divide the {local} pairs that each of '
            f'{devices} device(s) holds of batch_size={config.batch_size}: take one of '
            f'{", ".join(map(str, fitting))}'
        )
    masking = config.masking
    budgeted = masking.strategy == 'pgs' and masking.min_ratio < masking.max_ratio
    if count > 1 and budgeted and masking.long_share < 1 and local // count % masking.budget_group:
        raise UserError(
            f'config.microbatches={count} leaves {local // count} pairs of a device at a time, which '
            f'masking.budget_group={masking.budget_group} does not divide, so that masks would '
            f'change: take masking.budget_group={math.gcd(local // count, masking.budget_group)}, '
            'or masking.long_share=1'
        )


def make_train_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    strategy: Callable,
    *,
    seed: int,
    total_steps: int,
    microbatches: int = 1,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The train step, not yet jitted.

    Args:
      model: both towers.
      optimizer: built with schedule.
      schedule: step -> learning rate, for the metrics.
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection.
      seed: the only source of randomness, with the step and the row of an image in the batch.
      total_steps: progress = step / total_steps.
      microbatches: parts of the batch whose activations exist one at a time; same result.

    Returns:
      train_step(state, batch) -> (state, metrics); batch has images uint8 (B, H, W, 3) and
      tokens int32 (B, T); metrics are float32 scalars: loss, grad_norm, logit_scale,
      learning_rate, mask_ratio (masked fraction, mean over the batch).
    """
    num_patches = (model.image['image_size'] // model.image['patch_size']) ** 2

    def train_step(state: TrainState, batch: dict[str, jax.Array]):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        progress = state.step.astype(jnp.float32) / total_steps
        # A key for each image: its mask does not hang on how the batch is cut up.
        rows = batch | {'keys': jax.random.split(rng, batch['images'].shape[0])}

        def embed(params, rows):
            def select(images, patch_embeddings):
                return strategy(rows['keys'], images, patch_embeddings, progress)

            images = normalize_images(rows['images'])
            out = model.apply({'params': params}, images, rows['tokens'], select)
            features = out['image_features'], out['text_features']
            return features, mask_ratio(out['selection'], num_patches)

        def loss(params, features):
            return info_nce(*features, jnp.exp(params['logit_scale']))

        value, grads, masked_B = loss_and_gradient(embed, loss, state.params, rows, microbatches)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params['logit_scale'] = jnp.minimum(params['logit_scale'], MAX_LOG_SCALE)
        metrics = {
            'loss': value,
            'grad_norm': optax.global_norm(grads),
            'logit_scale': jnp.exp(state.params['logit_scale']),
            'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
            'mask_ratio': masked_B.mean(),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def lower_train_step(train_step: Callable, mesh: Mesh, state: TrainState, batch):
    """Lowers a train step for a mesh; the old state's memory is given to the new one.

    Args:
      train_step: of make_train_step.
      mesh: of real devices, or of those of a described topology.
      state, batch: arrays, or their shapes alone.

    Returns:
      jax.stages.Lowered, whose compile() gives (state, batch) -> (state, metrics).
    """
    with jax.set_mesh(mesh):
        return jit_train_step(train_step, mesh, state).lower(state, batch)


def jit_train_step(train_step: Callable, mesh: Mesh, state: TrainState) -> Callable:
    """Jits a train step over a mesh, to be called under jax.set_mesh(mesh)."""
    laid_out = state_sharding(mesh, state)
    return jax.jit(
        train_step,
        in_shardings=(laid_out, batch_sharding(mesh)),
        out_shardings=(laid_out, replicated(mesh)),
        donate_argnums=0,
    )
