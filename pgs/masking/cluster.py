"""The strategy `cluster`: E-CLIP, which masks clusters of similar patches.

docs/masking.md explains it. Shapes: B images, L patches, A anchors, K kept patches.
"""

import math

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.calibration import Calibration, calibrated_threshold, check_target
from pgs.masking.selection import (
    PatchSelection,
    check_ratio,
    draw,
    masked_counts,
    select_ranked,
)
from pgs.masking.similarity import patch_similarity


def cluster(
    rng,
    images,
    patch_embeddings,
    progress,
    *,
    patch_size: int,
    anchor_ratio: float = 0.03,
    cluster_threshold: float = 0.5,
    min_ratio: float = 0.3,
) -> PatchSelection:
    """Masks random anchors and all patches that resemble one (E-CLIP, Wei et al., CVPR 2024).

    Where these are fewer than ceil(min_ratio * L), other patches are masked at random up to this
    number. There is no upper ratio, but at least one patch stays.

    Args:
      anchor_ratio: fraction of the patches that are anchors, rounded up to at least one patch; in
        [0, 1).
      cluster_threshold: cosine to an anchor above which a patch is masked, in [-1, 1].
      min_ratio: smallest masked fraction of an image, in [0, 1).
      The others: as for every strategy, see strategies.py.

    Raises:
      UserError: a ratio outside [0, 1) or one that leaves no patch, or a cluster_threshold outside
        [-1, 1].
    """
    images, patch_embeddings, progress = jax.lax.stop_gradient((images, patch_embeddings, progress))
    batch, length, _ = patch_embeddings.shape
    fewest, _ = masked_counts(length, min_ratio, min_ratio)
    num_anchors = anchor_count(length, anchor_ratio)
    if not -1.0 <= cluster_threshold <= 1.0:
        raise UserError(
            f'masking.cluster_threshold={cluster_threshold} is not a cosine: give -1 <= x <= 1; '
            'the default is 0.5'
        )
    noise_Bx2L = draw(jax.random.uniform, rng, batch, 2 * length)
    _, anchors_BxA = jax.lax.top_k(noise_Bx2L[:, :length], num_anchors)
    similarity_BxLxL = patch_similarity(images, patch_embeddings, progress, patch_size=patch_size)
    masked_BxL = masked_patches(similarity_BxLxL, anchors_BxA, cluster_threshold)
    return select_visible(masked_BxL, anchors_BxA, noise_Bx2L[:, length:], fewest)


def calibrate(
    num_patches: int,
    *,
    patch_size: int,
    cluster_target: float = 0.0,
    anchor_ratio: float = 0.03,
    min_ratio: float = 0.3,
) -> Calibration | None:
    """Sets cluster_threshold to mask `cluster_target` of the patches on average at progress 0.

    Args:
      num_patches: L.
      cluster_target: mean masked fraction, above min_ratio and below 1; 0: no calibration.
      The others: as for `cluster`.

    Raises:
      UserError: a target out of range; `solve` also for one that no threshold reaches.
    """
    if cluster_target == 0.0:
        return None
    check_target(cluster_target, min_ratio, num_patches)
    num_anchors = anchor_count(num_patches, anchor_ratio)

    def nearest(rng: jax.Array, images: jax.Array) -> jax.Array:
        batch = images.shape[0]
        _, anchors_BxA = jax.lax.top_k(
            draw(jax.random.uniform, rng, batch, num_patches), num_anchors
        )
        # At progress 0 the similarity is that of the pixels; embeddings have a weight of 0.
        unused_BxLx1 = jnp.zeros((batch, num_patches, 1))
        similarity_BxLxL = patch_similarity(images, unused_BxLx1, 0.0, patch_size=patch_size)
        return anchor_similarity(similarity_BxLxL, anchors_BxA)

    def solve(nearest_NxL: jax.Array) -> dict[str, float]:
        threshold = calibrated_threshold(nearest_NxL, cluster_target, min_ratio)
        return {'cluster_threshold': threshold}

    goal = f'a mean masked fraction of {cluster_target}'
    return Calibration(('cluster_threshold',), goal, nearest, solve)


def select_visible(
    masked_BxL: jax.Array, anchors_BxA: jax.Array, noise_BxL: jax.Array, fewest: int
) -> PatchSelection:
    """The patches that are not masked, or `L - fewest` of them at random where there are more.

    Images keep different numbers of patches in L - fewest slots each. A token budget (budget.py)
    does not fit: it fills its short bucket by masking images to an upper ratio, and there is none.

    Args:
      masked_BxL: bool, of `masked_patches`.
      anchors_BxA: int, positions of the anchors; where all patches are masked, another one stays.
      noise_BxL: float in [0, 1); visible patches with the largest values go first.
      fewest: masked patches of an image, at least.
    """
    length = masked_BxL.shape[1]
    # Anchors go first, then the other masked patches, then visible ones.
    first_BxL = masked_BxL.astype(jnp.float32) + is_anchor(anchors_BxA, length)
    order_BxL = jnp.argsort(-(first_BxL + noise_BxL), axis=-1)
    count_B = jnp.clip(masked_BxL.sum(axis=-1), fewest, length - 1)
    return select_ranked(order_BxL, count_B, fewest, length - 1)


def anchor_count(num_patches: int, anchor_ratio: float) -> int:
    """Anchors of an image: ceil(anchor_ratio * L), at least one.

    Raises:
      UserError: a ratio outside [0, 1), or one that makes every patch an anchor.
    """
    check_ratio('anchor_ratio', anchor_ratio)
    count = max(1, math.ceil(anchor_ratio * num_patches - 1e-9 * num_patches))
    if count >= num_patches > 1:
        raise UserError(
            f'masking.anchor_ratio={anchor_ratio} leaves none of {num_patches} patches: lower it'
        )
    return count


def is_anchor(anchors_BxA: jax.Array, num_patches: int) -> jax.Array:
    """Which patches are anchors: bool (B, L)."""
    return (anchors_BxA[:, :, None] == jnp.arange(num_patches)).any(axis=1)


def anchor_similarity(similarity_BxLxL: jax.Array, anchors_BxA: jax.Array) -> jax.Array:
    """Similarity of each patch to the anchor that it resembles most; infinite for anchors: (B, L)."""
    rows_BxAxL = jnp.take_along_axis(similarity_BxLxL, anchors_BxA[:, :, None], axis=1)
    length = similarity_BxLxL.shape[-1]
    return jnp.where(is_anchor(anchors_BxA, length), jnp.inf, rows_BxAxL.max(axis=1))


def masked_patches(
    similarity_BxLxL: jax.Array, anchors_BxA: jax.Array, threshold: jax.Array | float
) -> jax.Array:
    """The anchors, and the patches whose similarity to any anchor is above the threshold.

    Args:
      similarity_BxLxL: cosines, as `patch_similarity` gives them.
      anchors_BxA: int, positions of the anchors.
      threshold: cosine.

    Returns:
      bool (B, L).
    """
    return anchor_similarity(similarity_BxLxL, anchors_BxA) > threshold
