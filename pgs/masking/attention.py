"""What a strategy has to say to be given an attention map: the keyword argument `attention`.

A strategy that declares `attention` without a default gets float32 (B, S): how strongly the class
token of an image tower, the scorer, attends to each patch of an image (pgs/models/class_attention.py).
Its options `attention_scale` and `ema_decay` configure the scorer; without them the defaults hold.

Shapes: B images, S patches that the scorer sees, row-major.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgs.errors import UserError

ATTENTION = 'attention'  # the keyword argument
DEFAULT_SCALE = 0.5
DEFAULT_DECAY = 0.996


class ScorerSettings(NamedTuple):
    """What the options of a strategy say about its scorer.

    Attributes:
      scale: resolution of the scorer's images, as a fraction of the image's: 0.5 or 1.
      decay: of the exponential moving average (EMA) of the weights, at the first step; in [0, 1).
    """

    scale: float
    decay: float


def scorer_settings(strategy: Callable) -> ScorerSettings | None:
    """The settings of a strategy's scorer; None for a strategy that wants no attention map.

    Args:
      strategy: as `pgs.masking.configured` gives it.

    Raises:
      UserError: an attention_scale that is not 0.5 or 1, or an ema_decay outside [0, 1).
    """
    parameters = inspect.signature(strategy).parameters
    if ATTENTION not in parameters:
        return None
    given = {name: parameter.default for name, parameter in parameters.items()}
    scale = given.get('attention_scale', DEFAULT_SCALE)
    decay = given.get('ema_decay', DEFAULT_DECAY)
    if scale not in (0.5, 1.0):
        raise UserError(
            f'masking.attention_scale={scale} must be 0.5 (images at half their resolution) or 1.0'
        )
    if not 0.0 <= decay < 1.0:
        raise UserError(
            f'masking.ema_decay={decay} must be 0 <= x < 1; the default is {DEFAULT_DECAY}'
        )
    return ScorerSettings(scale, decay)


def scorer_side(scale: float, image_size: int, patch_size: int) -> int:
    """Patches along a side of the images that the scorer sees.

    Raises:
      UserError: half of an odd number of patches.
    """
    side = image_size // patch_size
    if scale == 1.0:
        return side
    if side % 2:
        raise UserError(
            f'masking.attention_scale={scale} does not fit {side} x {side} patches (image_size='
            f'{image_size}, patch_size={patch_size}), because {side} is odd: set it to 1.0'
        )
    return side // 2


def attention_shape(
    strategy: Callable, image_size: int, patch_size: int, batch: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """The keyword argument that a strategy needs beyond the common ones, as a shape; {} for none.

    Raises:
      UserError: as scorer_settings and scorer_side.
    """
    settings = scorer_settings(strategy)
    if settings is None:
        return {}
    side = scorer_side(settings.scale, image_size, patch_size)
    return {ATTENTION: jax.ShapeDtypeStruct((batch, side**2), jnp.float32)}
