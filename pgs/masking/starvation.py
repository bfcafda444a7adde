"""Starvation: patches that a strategy hardly ever shows to the image tower (docs/masking.md).

A mask that depends on the content may drop the same patches in every epoch. The model then learns
nothing about them, and meets them for the first time when it is scored on whole images.

Shapes: N images, L patches of an image, D width of an embedding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pgs.masking.selection import PatchSelection, visible

RARELY = 0.05  # share of the draws below which a patch counts as starved


def seen_share(
    strategy: Callable[..., PatchSelection],
    images_NxHxWx3: jax.Array,
    embeddings_NxLxD: jax.Array,
    *,
    draws: int,
    seed: int,
) -> jax.Array:
    """How often each patch is seen in the course of a run.

    Draw t of T has progress t / (T - 1), from 0 to 1, and new random keys. The embeddings are the
    same in all draws.

    Args:
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection, as `configured` gives.
      images_NxHxWx3: float, as the strategy takes them.
      embeddings_NxLxD: patch embeddings after the position embedding.
      draws: T, at least 1.
      seed: of the keys; the same seed gives the same result.

    Returns:
      float32 (N, L), shares of the draws in [0, 1].
    """
    count, length, _ = embeddings_NxLxD.shape

    def add_draw(t: jax.Array, times_NxL: jax.Array) -> jax.Array:
        keys_N = jax.random.split(jax.random.fold_in(jax.random.key(seed), t), count)
        progress = t / max(draws - 1, 1)
        selection = strategy(keys_N, images_NxHxWx3, embeddings_NxLxD, progress)
        return times_NxL + visible(selection, length)

    start = jnp.zeros((count, length), jnp.int32)
    return jax.lax.fori_loop(0, draws, add_draw, start) / draws


def starved_share(seen_NxL: np.ndarray, rarely: float = RARELY) -> float:
    """Share of all patches that are seen in fewer than `rarely` of the draws, in [0, 1].

    Args:
      seen_NxL: of `seen_share`.
      rarely: share of the draws in (0, 1].
    """
    return float((np.asarray(seen_NxL) < rarely).mean())
