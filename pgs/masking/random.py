"""The strategy `random`: FLIP."""

import jax
import jax.numpy as jnp

from pgs.masking.selection import PatchSelection, check_ratio, draw, select_ranked


def random(
    rng, images, patch_embeddings, progress, *, patch_size: int, mask_ratio: float = 0.5
) -> PatchSelection:
    """Masks round(mask_ratio * L) patches, each equally likely (FLIP, arXiv 2212.00794).

    Args:
      mask_ratio: masked fraction of each image, in [0, 1); at least one patch stays.
      The others: as for every strategy, see strategies.py.

    Raises:
      UserError: mask_ratio outside [0, 1).
    """
    del images, progress, patch_size
    check_ratio('mask_ratio', mask_ratio)
    batch, length, _ = patch_embeddings.shape
    masked = min(round(mask_ratio * length), length - 1)
    order_BxL = jnp.argsort(draw(jax.random.uniform, rng, batch, length), axis=-1)
    return select_ranked(order_BxL, jnp.full((batch,), masked), masked, masked)
