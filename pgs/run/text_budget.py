"""What a budget of tokens for captions does to a run's data: told at its start."""

import jax
import numpy as np

from pgs.models import packing

MOST_CUT = 0.01  # share of the captions above which a run warns


def cut_by(tokens_BxT: np.ndarray, budget: int) -> float:
    """Share of the captions that a budget cuts; 0 where it leaves room for all tokens."""
    return float(packing.cut_share(tokens_BxT, budget)) if budget < tokens_BxT.shape[1] else 0.0


def budget_line(tokens: jax.Array, budget: int) -> str:
    """One line on a batch's captions: their length, and the share that is cut; a warning if it is
    large, with the smallest budget (in steps of packing.STEP) that cuts few.

    Args:
      tokens: int32 (B, T), of a run's first batch; of several processes each sees its own rows.
      budget: config.model.text.tokens_per_pair.
    """
    mine = [np.asarray(shard.data) for shard in tokens.addressable_shards if not shard.replica_id]
    tokens_BxT = np.concatenate(mine)
    mean, cut = float(packing.lengths_of(tokens_BxT).mean()), cut_by(tokens_BxT, budget)
    line = (
        f'Captions: {mean:.1f} tokens on average, {budget} computed for each, {cut:.1%} of them cut'
    )
    if cut <= MOST_CUT:
        return line
    length = tokens_BxT.shape[1]
    larger = range(budget // packing.STEP * packing.STEP + packing.STEP, length, packing.STEP)
    enough = next((b for b in larger if cut_by(tokens_BxT, b) <= MOST_CUT), length)
    return f'warning: {line}: take --config.model.text.tokens_per_pair={enough}'
