"""The strategy `none`: CLIP, no mask."""

import jax.numpy as jnp

from pgs.masking.selection import PatchSelection


def none(rng, images, patch_embeddings, progress, *, patch_size: int) -> PatchSelection:
    """Keeps all patches (CLIP, arXiv 2103.00020)."""
    del rng, images, progress, patch_size
    batch, length, _ = patch_embeddings.shape
    return PatchSelection(jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length)))
