"""The strategy `background`: PGS with edges of a neighbourhood, a border prior and random selection.

docs/masking.md, "Better masks", says why. Shapes: B images of H x W pixels, L patches of an image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from pgs.errors import UserError
from pgs.masking.edges import edge_scores, min_max_scaled
from pgs.masking.generation import (
    check_generation,
    closest_candidate,
    draw_candidates,
    first_candidates,
    selection_gumbel,
)
from pgs.masking.selection import (
    PatchSelection,
    check_ratio,
    masked_counts,
    select_ranked,
)
from pgs.masking.similarity import patch_similarity
from pgs.masking.transport import balance


def background(
    rng,
    images,
    patch_embeddings,
    progress,
    *,
    patch_size: int,
    mask_ratio: float = 0.5,
    candidate_ratio: float = 0.05,
    edge_weight: float = 8.0,
    edge_window: int = 3,
    border_weight: float = 8.0,
    epsilon: float = 0.1,
    selection_noise: float = 0.0,
) -> PatchSelection:
    """Masks what resembles places of the image's border without edges nearby.

    As `pgs`, step by step, with three differences: a patch is protected by the edges around it as
    well, so that an object's flat inside stays with its outline; candidates are drawn near the
    border and the selection prefers it, because photographers put objects in the middle; and the
    selection may be random in proportion to its scores.

    Args:
      mask_ratio: masked fraction of each image, in [0, 1), rounded up to whole patches.
      candidate_ratio, edge_weight, epsilon, selection_noise: as for `pgs`.
      edge_window: side of the square of patches over which edges are averaged, odd; 1: none.
      border_weight: how strongly the distance from the border protects a patch, >= 0.
      The others: as for every strategy, see strategies.py.

    Raises:
      UserError: an option outside its range.
    """
    images, patch_embeddings, progress = jax.lax.stop_gradient((images, patch_embeddings, progress))
    batch, length, _ = patch_embeddings.shape
    check_ratio('mask_ratio', mask_ratio)
    masked, _ = masked_counts(length, mask_ratio, mask_ratio)
    check_generation(candidate_ratio, epsilon, selection_noise)
    check_places(edge_window, border_weight)
    rows, columns = (side // patch_size for side in images.shape[1:3])

    edges_BxL = neighbourhood_means(edge_scores(images, patch_size), rows, columns, edge_window)
    protection_BxL = edge_weight * edges_BxL + border_weight * border_distance(rows, columns)
    candidates_BxC = draw_candidates(rng, -protection_BxL, candidate_ratio)
    similarity_BxLxL = patch_similarity(images, patch_embeddings, progress, patch_size=patch_size)
    log_affinity_BxL = closest_candidate(balance(similarity_BxLxL, epsilon, candidates_BxC))
    score_BxL = first_candidates(log_affinity_BxL - protection_BxL, candidates_BxC)
    if selection_noise > 0.0:
        score_BxL += selection_noise * selection_gumbel(rng, batch, length)
    order_BxL = jnp.argsort(-score_BxL, axis=-1)
    return select_ranked(order_BxL, jnp.full((batch,), masked), masked, masked)


def neighbourhood_means(scores_BxL: jax.Array, rows: int, columns: int, window: int) -> jax.Array:
    """Means over squares of window x window patches, scaled to [0, 1]: (B, L).

    The outermost patches are repeated beyond the border. An image with the same score everywhere is
    all 0.
    """
    if window == 1:
        return scores_BxL
    reach = window // 2
    grid = rearrange(scores_BxL, 'b (h w) -> b h w', h=rows, w=columns)
    padded = jnp.pad(grid, ((0, 0), (reach, reach), (reach, reach)), mode='edge')
    sums = jax.lax.reduce_window(padded, 0.0, jax.lax.add, (1, window, window), (1, 1, 1), 'VALID')
    # Rounding of a sum of ones is far below this spread, and the scores themselves reach from 0 to 1.
    return min_max_scaled(rearrange(sums, 'b h w -> b (h w)') / window**2, 1e-5)


def border_distance(rows: int, columns: int) -> np.ndarray:
    """0 at the border of the image, 1 in its middle: float32 (L,), row-major."""
    row, column = (
        np.minimum(np.arange(n), np.arange(n)[::-1]) / max((n - 1) // 2, 1) for n in (rows, columns)
    )
    return np.minimum(row[:, None], column[None, :]).ravel().astype(np.float32)


def check_places(edge_window: int, border_weight: float) -> None:
    """Raises UserError for an option outside its range."""
    if edge_window < 1 or edge_window % 2 == 0:
        raise UserError(
            f'masking.edge_window={edge_window} must be an odd number of patches: 1 is off, the '
            'default is 3'
        )
    if border_weight < 0.0:
        raise UserError(
            f'masking.border_weight={border_weight} must be at least 0; 0 is off, the default is 8'
        )
