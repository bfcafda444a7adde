"""The train step: one pure function of a state and a batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pgs.loss import info_nce
from pgs.masking.strategies import mask_ratio
from pgs.models.clip import CLIP, MAX_LOG_SCALE, normalize_images
from pgs.sharding import batch_sharding, replicated


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and all that a checkpoint holds."""

    step: jax.Array  # int32 scalar: steps done
    params: Any  # float32
    opt_state: Any


def init_state(model: CLIP, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh):
    """A fresh state, created on the devices that hold it."""

    def create() -> TrainState:
        size, length = model.image['image_size'], model.text['context_length']
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        tokens = jnp.zeros((1, length), jnp.int32)
        params = model.init(jax.random.key(seed), images, tokens)['params']
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(create, out_shardings=replicated(mesh))()


def make_train_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    strategy: Callable,
    *,
    seed: int,
    total_steps: int,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The train step, not yet jitted.

    Args:
      model: both towers.
      optimizer: built with schedule.
      schedule: step -> learning rate, for the metrics.
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection.
      seed: the only source of randomness, with the step.
      total_steps: progress = step / total_steps.

    Returns:
      train_step(state, batch) -> (state, metrics); batch has images uint8 (B, H, W, 3) and
      tokens int32 (B, T); metrics are float32 scalars: loss, grad_norm, logit_scale,
      learning_rate, mask_ratio (masked fraction, mean over the batch).
    """
    num_patches = (model.image['image_size'] // model.image['patch_size']) ** 2

    def train_step(state: TrainState, batch: dict[str, jax.Array]):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        progress = state.step.astype(jnp.float32) / total_steps
        images = normalize_images(batch['images'])

        def select(images, patch_embeddings):
            return strategy(rng, images, patch_embeddings, progress)

        def loss_fn(params):
            out = model.apply({'params': params}, images, batch['tokens'], select)
            loss = info_nce(out['image_features'], out['text_features'], out['logit_scale'])
            return loss, out

        (loss, out), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params['logit_scale'] = jnp.minimum(params['logit_scale'], MAX_LOG_SCALE)
        metrics = {
            'loss': loss,
            'grad_norm': optax.global_norm(grads),
            'logit_scale': out['logit_scale'],
            'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
            'mask_ratio': mask_ratio(out['selection'], num_patches).mean(),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def jit_train_step(train_step: Callable, mesh: Mesh) -> Callable:
    """Jits a train step over a mesh; the old state's memory is given to the new one."""
    whole = replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, batch_sharding(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
