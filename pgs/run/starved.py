"""The patches that a run's own mask hardly ever shows: their share, and a map (docs/masking.md).

Shapes: N images, L patches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from input_pipeline import images as image_ops
from input_pipeline.sources import Records
from pgs.inference.masking import WHOLE
from pgs.masking import configured
from pgs.masking.selection import PatchSelection
from pgs.masking.starvation import seen_share, starved_share
from pgs.models import CLIP, normalize_images
from pgs.models.class_attention import make_scorer
from pgs.run import figures
from pgs.run.masks import CREDIT, spread_records

IMAGES, DRAWS = 32, 100


def spread_images(source: Records, count: int, image_size: int) -> np.ndarray:
    """Images from all over a source, as the evaluation sees them: uint8 (N, H, W, 3), N <= count."""
    records = spread_records(source, count)
    return np.stack([image_ops.centre_crop(r['image'], image_size=image_size) for r in records])


def seen_patches(config: ConfigDict, model: CLIP, params: Any, images: np.ndarray) -> np.ndarray:
    """How often the run's mask shows each patch in DRAWS masks over a run, see `seen_share`.

    Args:
      config: as configs/base.py.
      model, params: the trained model, whose embeddings all draws use.
      images: uint8 (N, H, W, 3).

    Returns:
      float32 (N, L) in [0, 1].
    """
    return np.asarray(make_counter(config, model)(params, images))


def make_counter(config: ConfigDict, model: CLIP) -> Callable[[Any, np.ndarray], jax.Array]:
    """seen_patches as a jitted function of (params, images), which compiles once for all of them."""
    strategy = configured(config.masking, model.image.patch_size)
    score = make_scorer(strategy, model.image)

    @jax.jit
    def count(params: Any, images_NxHxWx3: jax.Array) -> jax.Array:
        normalized = normalize_images(images_NxHxWx3)
        given, found = score(params['image_tower'], normalized), []

        def select(rng: Any, *arguments: Any) -> PatchSelection:
            return strategy(rng, *arguments, **given)

        def keep_all(images: jax.Array, embeddings_NxLxD: jax.Array) -> PatchSelection:
            found.append(
                seen_share(select, images, embeddings_NxLxD, draws=DRAWS, seed=config.seed)
            )
            number, length, _ = embeddings_NxLxD.shape
            return PatchSelection(jnp.broadcast_to(jnp.arange(length), (number, length)))

        model.apply({'params': params}, normalized, keep_all, method=CLIP.select_patches)
        return found[-1]

    return count


def draw_starvation(
    config: ConfigDict, model: CLIP, params: Any, source: Records, path: epath.Path
) -> float | None:
    """Writes figures/starvation.png: a few images and how often each of their patches is seen.

    Args:
      config: as configs/base.py.
      model, params: the trained model.
      source: of the images.
      path: of the figure.

    Returns:
      The share of starved patches in [0, 1]; None, and no figure, where no image is masked.
    """
    if config.masking.strategy == WHOLE:
        return None
    images = spread_images(source, IMAGES, model.image.image_size)
    seen_NxL = seen_patches(config, model, params, images)
    embedded = 'alpha' in source[0]
    credit = CREDIT if embedded else ''
    figures.save(figures.starvation_figure(images, seen_NxL, credit), path)
    return starved_share(seen_NxL)
