"""How strongly the class token of an image tower attends to each patch, for strategies that ask for it.

The tower that scores patches in training is an exponential moving average (EMA) of the image tower
(A-CLIP, Yang et al., ICCV 2023). Everywhere else the image tower's own weights are the scorer.

Shapes: B images, S patches that the scorer sees.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import reduce

from pgs.masking.attention import ATTENTION, scorer_settings, scorer_side
from pgs.models.image_tower import ImageTower, ImageTowerSettings
from pgs.models.positions import resample_grid
from pgs.models.transformer import CLASS_ATTENTION, INTERMEDIATES


def make_scorer(
    strategy: Callable, image: ImageTowerSettings
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """What a strategy is given beyond the common arguments.

    Args:
      strategy: as `pgs.masking.configured` gives it.
      image: settings of the image tower.

    Returns:
      (parameters of an image tower, normalised images (B, H, W, 3)) -> keyword arguments of the
      strategy: its attention map, or {} for a strategy that does not ask for one.

    Raises:
      UserError: settings of the scorer that are invalid or do not fit the patches.
    """
    settings = scorer_settings(strategy)
    if settings is None:
        return lambda tower, images: {}
    scale = settings.scale
    scorer_side(scale, image.image_size, image.patch_size)

    def score(tower: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {ATTENTION: class_attention(image, tower, images, scale)}

    return score


def class_attention(
    image: ImageTowerSettings, tower: Any, images_BxHxWx3: jax.Array, scale: float
) -> jax.Array:
    """Softmax attention of the class token to each patch, mean over all layers and heads.

    Args:
      image: settings of the tower.
      tower: its parameters.
      images_BxHxWx3: normalised, at full resolution.
      scale: 0.5 scores images of half the resolution (means of 2 x 2 pixels), with resampled
        position embeddings; 1 scores the images as they are.

    Returns:
      float32 (B, S), without a gradient. The class token attends to itself as well, so that a row adds
      up to less than 1.
    """
    side = scorer_side(scale, image.image_size, image.patch_size)
    factor = image.image_size // (side * image.patch_size)
    if factor != 1:
        images_BxHxWx3 = reduce(
            images_BxHxWx3, 'b (h p) (w q) c -> b h w c', 'mean', p=factor, q=factor
        )
        positions = tower['positions']
        resampled = resample_grid(positions[1:], side)
        tower = {**tower, 'positions': jnp.concatenate([positions[:1], resampled])}
    scorer = ImageTower(dataclasses.replace(image, image_size=side * image.patch_size))
    _, collected = scorer.apply({'params': tower}, images_BxHxWx3, mutable=[INTERMEDIATES])
    (layers_NxBxS,) = collected[INTERMEDIATES]['transformer']['blocks'][CLASS_ATTENTION]
    return jax.lax.stop_gradient(layers_NxBxS.mean(axis=0))


def moved_average(ema: Any, tower: Any, progress: jax.Array, decay: float) -> Any:
    """The EMA tower after one more step: ema + (1 - m) * (tower - ema).

    Args:
      ema, tower: parameters of image towers.
      progress: step / total_steps in [0, 1]; m rises from `decay` at 0 to 1 at 1 by a cosine.
      decay: in [0, 1).
    """
    rate = (1.0 - decay) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jax.tree.map(lambda old, new: old + rate * (new - old), ema, tower)
