"""The train step: one pure function of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pgs.loss import info_nce
from pgs.masking.attention import scorer_settings
from pgs.masking.selection import mask_ratio
from pgs.microbatches import loss_and_gradient, map_parts
from pgs.models.class_attention import make_scorer, moved_average
from pgs.models.clip import CLIP, MAX_LOG_SCALE, normalize_images
from pgs.models.image_tower import ImageTowerSettings
from pgs.models.packing import cut_share
from pgs.sharding import (
    batch_sharding,
    compiler_options,
    gather_weights,
    replicated,
    state_sharding,
)


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and everything that a checkpoint holds."""

    step: jax.Array  # int32 scalar: steps done
    params: Any  # float32
    opt_state: Any
    # EMA of params['image_tower']; None unless the strategy asks for an attention map.
    ema: Any = None
    # EMA of params; None unless config.weights_ema is above 0.
    average: Any = None

    @property
    def weights(self) -> Any:
        """The parameters that are scored and exported: their average, if there is one."""
        return self.params if self.average is None else self.average


Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def make_init(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    strategy: Callable | None = None,
    *,
    averaged: bool = False,
) -> Callable[[], TrainState]:
    """A function () -> fresh state, to be jitted, or traced for its shapes.

    With a strategy that asks for an attention map the state has an EMA tower: a copy of the fresh one.
    With `averaged` it has an average of all parameters (config.weights_ema): a copy as well.
    """
    has_ema = strategy is not None and scorer_settings(strategy) is not None

    def create() -> TrainState:
        size, length = model.image.image_size, model.text.context_length
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        tokens = jnp.zeros((1, length), jnp.int32)
        params = model.init(jax.random.key(seed), images, tokens)['params']
        ema = jax.tree.map(jnp.copy, params['image_tower']) if has_ema else None
        average = jax.tree.map(jnp.copy, params) if averaged else None
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema, average)

    return create


def init_state(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    strategy: Callable | None = None,
    *,
    averaged: bool = False,
) -> TrainState:
    """A fresh state, created in place: no device materialises the whole sharded state."""
    create = make_init(model, optimizer, seed, strategy, averaged=averaged)
    return jax.jit(create, out_shardings=state_sharding(mesh, jax.eval_shape(create)))()


def make_train_step(
    model: CLIP,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    strategy: Callable | None,
    *,
    seed: int | jax.Array,
    total_steps: int,
    microbatches: int = 1,
    hold: Callable[[Any], Any] = lambda params: params,
    clip_norm: float = 0.0,
    weights_ema: float = 0.0,
) -> TrainStep:
    """The train step, not yet jitted.

    Args:
      model: both towers.
      optimizer: built with schedule.
      schedule: step -> learning rate, for the metrics.
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection; None masks nothing.
        If it asks for an attention map, the state's EMA tower is updated first and then scores the
        images; otherwise an EMA tower stays as it is.
      seed: with the step and an image's row in the batch, the only source of randomness.
      total_steps: progress = step / total_steps.
      microbatches: parts of the batch whose activations exist one at a time; the result is the same.
      hold: parameters -> the same without a gradient for those that are frozen.
      clip_norm: norm of all gradients together above which they are scaled down to it; 0: none.
      weights_ema: decay of the parameters' average, see `moved_weights`; 0: the state has none.

    Returns:
      train_step(state, batch) -> (state, metrics); batch has images uint8 (B, H, W, 3) and
      tokens int32 (B, T); metrics are float32 scalars: loss, grad_norm, logit_scale,
      learning_rate, mask_ratio (masked fraction, mean over the batch), and captions_cut (share of
      the captions, with model.text.tokens_per_pair); grad_norm is that before
      clipping. Parameters and moments whose gradient is not finite stay as they are; all of them if
      the loss is not finite, or with clip_norm the norm.
    """
    num_patches = model.image.num_patches

    def train_step(state: TrainState, batch: dict[str, jax.Array]):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        progress = state.step.astype(jnp.float32) / total_steps
        ema, scores = score_patches(
            strategy, model.image, state, batch['images'], progress=progress, parts=microbatches
        )
        # A key for each image, so that its mask does not depend on devices and microbatches.
        keys = jax.random.split(rng, batch['images'].shape[0])
        rows = batch | {'keys': keys, 'scores': scores}

        def embed(params, rows):
            select = None
            if strategy is not None:
                select = functools.partial(
                    strategy, rows['keys'], progress=progress, **rows['scores']
                )
            images = normalize_images(rows['images'])
            weights = gather_weights(hold(params), model.image.transformer.dtype)
            out: Any = model.apply({'params': weights}, images, rows['tokens'], select)
            features = out['image_features'], out['text_features']
            if out['selection'] is None:
                return features, jnp.zeros(images.shape[:1])
            return features, mask_ratio(out['selection'], num_patches)

        def loss(params, features):
            image_features, text_features = features
            return info_nce(image_features, text_features, jnp.exp(params['logit_scale']))

        value, grads, masked_B = loss_and_gradient(embed, loss, state.params, rows, microbatches)
        used = clipped(grads, clip_norm) if clip_norm else grads
        updates, opt_state = optimizer.update(used, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params['logit_scale'] = jnp.minimum(params['logit_scale'], MAX_LOG_SCALE)
        grad_norm = optax.tree.norm(grads)
        finite = jax.tree.map(lambda g: jnp.isfinite(value) & jnp.isfinite(g), used)
        params, opt_state = keep_where_not_finite(
            optimizer, finite, (params, opt_state), (state.params, state.opt_state)
        )
        metrics = {
            'loss': value,
            'grad_norm': grad_norm,
            'logit_scale': jnp.exp(state.params['logit_scale']),
            'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
            'mask_ratio': masked_B.mean(),
        }
        budget = model.text.tokens_per_pair
        if budget is not None and budget < batch['tokens'].shape[1]:
            metrics['captions_cut'] = cut_share(batch['tokens'], budget)
        average = state.average
        if weights_ema:
            average = moved_weights(average, params, state.step, weights_ema)
        return TrainState(state.step + 1, params, opt_state, ema, average), metrics

    return train_step


def score_patches(
    strategy: Callable | None,
    image: ImageTowerSettings,
    state: TrainState,
    images: jax.Array,
    *,
    progress: jax.Array,
    parts: int,
) -> tuple[Any, dict[str, jax.Array]]:
    """Updates the EMA tower and scores the patches with it, if the strategy asks for that.

    Args:
      strategy: of make_train_step.
      image: settings of the image tower.
      state: before the step.
      images: uint8 (B, H, W, 3).
      progress: step / total_steps.
      parts: number of microbatches.

    Returns:
      (the new EMA tower, keyword arguments for the strategy); (the old one, {}) for a strategy
      that asks for nothing.
    """
    settings = None if strategy is None else scorer_settings(strategy)
    if strategy is None or settings is None:
        return state.ema, {}
    score = make_scorer(strategy, image)
    with jax.named_scope('patch_selection'):
        ema = moved_average(state.ema, state.params['image_tower'], progress, settings.decay)
        return ema, map_parts(lambda part: score(ema, normalize_images(part)), images, parts)


def clipped(grads: Any, limit: float) -> Any:
    """Gradients scaled down to a norm of `limit` if they have a larger one together.

    Where the norm is not finite all of them become NaN, so that the step is skipped as a whole.
    Pascanu et al., arXiv 1211.5063.
    """
    norm = optax.tree.norm(grads)
    factor = jnp.where(jnp.isfinite(norm), jnp.minimum(1.0, limit / norm), jnp.nan)
    return jax.tree.map(lambda g: g * factor, grads)


def moved_weights(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The parameters' average after one more step: average + (1 - d) * (params - average).

    d = min(decay, (1 + step) / (10 + step)), as TensorFlow's ExponentialMovingAverage has it: an
    average over the steps so far while they are few, so that random initial weights are forgotten.
    Averages of the iterates: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992).

    Args:
      average, params: trees of the same structure; params are those after the step.
      step: steps done before this one, int32 scalar.
      decay: in [0, 1).
    """
    done = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return jax.tree.map(lambda old, new: old + rate * (new - old), average, params)


def keep_where_not_finite(
    optimizer: optax.GradientTransformation, finite: Any, new: Any, old: Any
) -> tuple[Any, Any]:
    """Takes back the update where the gradient was not finite.

    Element by element, and by a select: so it is part of the update's own pass over memory, and no
    update waits until all gradients are known (docs/reliability.md has the cost of one decision for
    all). What is not finite spreads to all gradients below it; those above it are exact.

    Args:
      optimizer: of the states.
      finite: bool, as the parameters.
      new, old: (parameters, state of the optimizer).

    Returns:
      (parameters, state of the optimizer); its counts are the new ones, so that the learning rate
      follows the step.
    """
    (new_params, new_state), (old_params, old_state) = new, old

    def is_absent(moment: Any) -> bool:  # of a frozen parameter
        return isinstance(moment, optax.MaskedNode)

    kept = optax.tree.map_params(
        optimizer,
        lambda moment, finite: moment if is_absent(moment) else finite,
        new_state,
        finite,
        transform_non_params=lambda count: True,
        is_leaf=is_absent,
    )
    params = jax.tree.map(jnp.where, finite, new_params, old_params)
    return params, jax.tree.map(jnp.where, kept, new_state, old_state)


def lower_train_step(
    train_step: TrainStep, mesh: Mesh, state: TrainState, batch: dict[str, Any]
) -> jax.stages.Lowered:
    """Lowers a train step for a mesh; the old state is donated to the new one.

    Args:
      train_step: of make_train_step.
      mesh: of real devices, or of those of a described topology.
      state, batch: arrays, or only their shapes.

    Returns:
      What compile() turns into a function (state, batch) -> (state, metrics).
    """
    with jax.set_mesh(mesh):
        return jit_train_step(train_step, mesh, state).lower(state, batch)


def jit_train_step(train_step: TrainStep, mesh: Mesh, state: TrainState) -> jax.stages.Wrapped:
    """Jits a train step over a mesh, to be called under jax.set_mesh(mesh)."""
    state_layout = state_sharding(mesh, state)
    return jax.jit(
        train_step,
        in_shardings=(state_layout, batch_sharding(mesh)),
        out_shardings=(state_layout, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )
