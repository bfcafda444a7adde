"""Object retention: how much of a known object a mask leaves visible (docs/masking.md).

Shapes: N images, M background photographs, L patches of an image.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import reduce

from input_pipeline.photographs import PHOTOGRAPHS as PHOTOGRAPHS
from input_pipeline.photographs import photographs as photographs
from pgs.masking.selection import PatchSelection, visible_patches
from pgs.masking.strategies import SELECTOR, find_strategy, options_of

RATIO_OPTIONS = {'mask_ratio', 'min_ratio', 'max_ratio'}
OBJECT_COVERAGE = 0.5  # fraction of a patch that the object must cover


def over_photographs(
    images_NxHxWx3: np.ndarray, alpha_NxHxW: np.ndarray, backgrounds_MxHxWx3: np.ndarray
) -> np.ndarray:
    """Puts objects that were rendered over white over photographs.

    Args:
      images_NxHxWx3: uint8, objects over white.
      alpha_NxHxW: uint8 opacity of the object.
      backgrounds_MxHxWx3: uint8 photographs; image i gets photograph i mod M.

    Returns:
      uint8 (N, H, W, 3).
    """
    behind = backgrounds_MxHxWx3[np.arange(len(images_NxHxWx3)) % len(backgrounds_MxHxWx3)]
    opacity = alpha_NxHxW[..., None].astype(np.float32) / 255.0
    # The image is a * object + (1 - a) * 255, so another background is an addition.
    mixed = images_NxHxWx3 + (1.0 - opacity) * (behind.astype(np.float32) - 255.0)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def object_patches(alpha_NxHxW: np.ndarray, patch_size: int) -> np.ndarray:
    """Patches of which the object covers at least half: bool (N, L)."""
    coverage = reduce(
        alpha_NxHxW.astype(np.float32) / 255.0,
        'n (h p) (w q) -> n h w',
        'mean',
        p=patch_size,
        q=patch_size,
    )
    return coverage.reshape(len(coverage), -1) >= OBJECT_COVERAGE


def retention(selection: PatchSelection, object_NxL: np.ndarray) -> float:
    """Share of an image's object patches that stay visible, mean over images that have any."""
    visible_NxL = visible_patches(selection, object_NxL.shape[1])
    has_object = object_NxL.any(axis=1)
    share = (visible_NxL & object_NxL).sum(axis=1)[has_object] / object_NxL.sum(axis=1)[has_object]
    return float(share.mean())


def at_half(masking: Mapping[str, Any]) -> dict[str, Any]:
    """config.masking with a masked fraction of 0.5, at which strategies are compared.

    Sets the options mask_ratio, min_ratio and max_ratio, if the strategy has them.
    """
    ratios = options_of(find_strategy(masking[SELECTOR])).keys() & RATIO_OPTIONS
    return dict(masking) | dict.fromkeys(ratios, 0.5)
