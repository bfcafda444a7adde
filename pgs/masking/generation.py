"""Candidates and what resembles them: the steps that `pgs` and its relatives share.

docs/masking.md, steps 3 and 5. Shapes: B images, L patches of an image, C candidates.
"""

import math

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.selection import check_ratio, draw

SELECTION_STREAM = 2  # folded into an image's key; 1 is taken by whole_images.py


def draw_candidates(rng: jax.Array, log_weight_BxL: jax.Array, candidate_ratio: float) -> jax.Array:
    """Patches drawn without replacement, in proportion to exp(log_weight): int32 (B, C).

    Gumbel top-k. C is round(candidate_ratio * L), at least 1.

    Args:
      rng: a key for each image (B,), or a single one.
      log_weight_BxL: float32.
      candidate_ratio: in [0, 1).
    """
    batch, length = log_weight_BxL.shape
    gumbel_BxL = draw(jax.random.gumbel, rng, batch, length)
    count = max(1, round(candidate_ratio * length))
    return jax.lax.top_k(gumbel_BxL + log_weight_BxL, count)[1]


def closest_candidate(log_plan_BxCxL: jax.Array) -> jax.Array:
    """log(max over candidates i of L * P_ij), (B, L): 0 is a uniform coupling.

    Args:
      log_plan_BxCxL: the rows of the candidates, see `balance`.
    """
    return log_plan_BxCxL.max(axis=1) + math.log(log_plan_BxCxL.shape[-1])


def first_candidates(score_BxL: jax.Array, candidates_BxC: jax.Array) -> jax.Array:
    """The scores with those of the candidates raised to infinity, (B, L)."""
    length = score_BxL.shape[1]
    is_candidate_BxL = (candidates_BxC[:, :, None] == jnp.arange(length)).any(axis=1)
    return jnp.where(is_candidate_BxL, jnp.inf, score_BxL)


def selection_gumbel(rng: jax.Array, batch: int, length: int) -> jax.Array:
    """Gumbel noise (batch, length), independent of that which draws the candidates."""
    keys_B = rng if rng.ndim else jax.random.split(rng, batch)
    other_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, SELECTION_STREAM)
    return draw(jax.random.gumbel, other_B, batch, length)


def check_generation(candidate_ratio: float, epsilon: float, selection_noise: float) -> None:
    """Raises UserError for an option outside its range."""
    check_ratio('candidate_ratio', candidate_ratio)
    if epsilon <= 0.0:
        raise UserError(f'masking.epsilon={epsilon} must be above 0; the default is 0.1')
    if selection_noise < 0.0:
        raise UserError(
            f'masking.selection_noise={selection_noise} must be at least 0; 0 is the default, off'
        )
