"""The strategy `pgs`: CLIP-PGS, patch generation-to-selection (arXiv 2503.17080).

docs/masking.md explains the steps. Shapes: B images, L patches, C candidates, K kept patches.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.budget import apply_budget, bucket_sizes, check_budget
from pgs.masking.canny import canny_scores
from pgs.masking.edges import edge_scores
from pgs.masking.generation import (
    check_generation,
    closest_candidate,
    draw_candidates,
    first_candidates,
    selection_gumbel,
)
from pgs.masking.selection import PatchSelection, masked_counts, select_ranked
from pgs.masking.similarity import patch_similarity
from pgs.masking.transport import balance, rescale

EDGE_DETECTORS = {'sobel': edge_scores, 'canny': canny_scores}
RUNS_OWN_PROGRESS = -1.0  # fixed_progress where it is not set


class PgsSteps(NamedTuple):
    """The intermediate results of PGS, for figures, notebooks and tests."""

    edges_BxL: jax.Array  # E in [0, 1]
    similarity_BxLxL: jax.Array  # S in [-1, 1]
    candidates_BxC: jax.Array  # int32 positions of the pre-selected patches
    affinity_BxL: jax.Array  # L * P to the closest candidate; 1 is a uniform coupling
    wanted_B: jax.Array  # int32, masked patches of each image by its content only
    masked_B: jax.Array  # int32, masked patches within the token budget
    selection: PatchSelection


def pgs_steps(
    rng: jax.Array,
    images: jax.Array,
    patch_embeddings: jax.Array,
    progress: jax.Array | float,
    *,
    patch_size: int,
    candidate_ratio: float = 0.05,
    min_ratio: float = 0.3,
    max_ratio: float = 0.5,
    edge_weight: float = 8.0,
    epsilon: float = 0.1,
    threshold: float = 1.0,
    use_edges: bool = True,
    use_transport: bool = True,
    edge_detector: str = 'sobel',
    fixed_progress: float = RUNS_OWN_PROGRESS,
    selection_noise: float = 0.0,
    budget_group: int = 16,
    long_share: float = 0.5,
) -> PgsSteps:
    """PGS with all its intermediate results; arguments and errors as for `pgs`."""
    images, patch_embeddings, progress = jax.lax.stop_gradient((images, patch_embeddings, progress))
    length = patch_embeddings.shape[1]
    fewest, most = masked_counts(length, min_ratio, max_ratio)
    check_generation(candidate_ratio, epsilon, selection_noise)
    check_threshold(threshold)
    check_ablation_options(edge_detector, fixed_progress)
    check_budget(budget_group, long_share)

    if fixed_progress != RUNS_OWN_PROGRESS:
        progress = fixed_progress

    edges_BxL = EDGE_DETECTORS[edge_detector](images, patch_size)
    beta = edge_weight if use_edges else 0.0

    # Generation: patches with weak edges, in proportion to exp(-beta * E).
    candidates_BxC = draw_candidates(rng, -beta * edges_BxL, candidate_ratio)

    # Balance, then the rows of the candidates: log(L * P_ij), the closest candidate i for each j.
    similarity_BxLxL = patch_similarity(images, patch_embeddings, progress, patch_size=patch_size)
    couple = balance if use_transport else rescale
    log_affinity_BxL = closest_candidate(couple(similarity_BxLxL, epsilon, candidates_BxC))

    # Selection: candidates first, then the patches most like them that show the weakest edges.
    score_BxL = first_candidates(log_affinity_BxL - beta * edges_BxL, candidates_BxC)
    if selection_noise > 0.0:
        score_BxL += selection_noise * selection_gumbel(rng, *edges_BxL.shape)
    alike_B = (log_affinity_BxL > math.log(threshold)).sum(axis=-1)
    wanted_B = jnp.clip(alike_B, fewest, most).astype(jnp.int32)
    buckets = None
    if fewest < most:
        slots = {'short_slots': length - most, 'long_slots': length - fewest}
        buckets = bucket_sizes(images.shape[0], budget_group, long_share, **slots)
    masked_B = apply_budget(wanted_B, most, buckets)
    order_BxL = jnp.argsort(-score_BxL, axis=-1)
    selection = select_ranked(order_BxL, masked_B, fewest, most, buckets)
    return PgsSteps(
        edges_BxL,
        similarity_BxLxL,
        candidates_BxC,
        jnp.exp(log_affinity_BxL),
        wanted_B,
        masked_B,
        selection,
    )


def check_threshold(threshold: float) -> None:
    """Raises UserError for a threshold that is not above 0."""
    if threshold <= 0.0:
        raise UserError(f'masking.threshold={threshold} must be above 0; the default is 1')


def check_ablation_options(edge_detector: str, fixed_progress: float) -> None:
    """Raises UserError for an unknown edge detector or a progress outside its range."""
    if edge_detector not in EDGE_DETECTORS:
        raise UserError(
            f'masking.edge_detector={edge_detector!r} is unknown: take one of '
            f'{", ".join(EDGE_DETECTORS)}'
        )
    if fixed_progress != RUNS_OWN_PROGRESS and not 0.0 <= fixed_progress <= 1.0:
        raise UserError(
            f'masking.fixed_progress={fixed_progress} must be from 0 to 1; '
            f'{RUNS_OWN_PROGRESS:g} follows the run'
        )


@functools.wraps(pgs_steps, assigned=())  # takes over the signature, which names the options
def pgs(*args, **options) -> PatchSelection:
    """Masks the patches that resemble a few chosen ones, and protects the edges of objects.

    The defaults are PGS-0.3; min_ratio = max_ratio = 0.5 is PGS-0.5.

    Args:
      rng: a key for each image (B,), or a single one; the same key gives the same mask.
      images: float (B, H, W, 3), any pixel scale.
      patch_embeddings: (B, L, D) after the position embedding.
      progress: step / total_steps in [0, 1]; moves from pixel to embedding similarity.
      patch_size: side of a patch in pixels.
      candidate_ratio: pre-selected fraction of the patches, in [0, 1); at least one patch.
      min_ratio, max_ratio: bounds of the masked fraction of each image, in [0, 1).
      edge_weight: beta >= 0; the larger, the more an edge protects its patch.
      epsilon: entropy regularisation of the transport, > 0.
      threshold: balanced similarity L * P above which two patches count as alike, > 0.
      use_edges: ED of the paper's ablation; False sets beta to 0.
      use_transport: OTN of the paper's ablation; False rescales by one scalar an image.
      edge_detector: 'sobel', or 'canny' of the paper's ablation.
      fixed_progress: used in place of `progress`, in [0, 1]; -1: off.
      selection_noise: scale of Gumbel noise on the scores of the selection, >= 0. With 1, patches
        are drawn in proportion to L * P * exp(-beta * E), so that fewer are hidden in every draw.
      budget_group: images that share a token budget, where min_ratio < max_ratio (budget.py).
      long_share: share of each group that may keep more patches than max_ratio leaves; 1 pads
        every image to the longest.

    Raises:
      UserError: a ratio outside [0, 1), min_ratio above max_ratio, epsilon or threshold <= 0, an
        unknown edge_detector, a fixed_progress outside its range, selection_noise below 0, a budget
        group without images, or a long_share outside [0, 1].
    """
    return pgs_steps(*args, **options).selection
