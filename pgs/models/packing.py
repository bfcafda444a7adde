"""Captions packed into rows, so that the text tower computes hardly any padding.

Captions of a group of GROUP consecutive ones share a few rows of slots, `budget` slots a caption on
average. The longest is placed first, each in the first row with room for it ("first fit
decreasing", Johnson et al., SIAM J. Comput. 3 (1974)). A token attends to those of its own caption.
All shapes are static, and the places are computed on the device: training, prompts and embedding
need nothing from the host.

Shapes: B captions, T tokens of a caption, g groups, n captions of a group, R rows of a group, W slots
of a row, S = R W slots of a group, H heads, D width of a head.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GROUP = 32  # captions; a larger one is cut more rarely, a smaller one fits more devices
STEP = 8  # widths of rows and fitting budgets are multiples of it
Array = jax.Array | np.ndarray


class Packed(NamedTuple):
    """Captions in rows.

    Attributes:
      tokens: int32 (g R, W), token ids; 0 in slots that are left over.
      positions: int32 (g R, W), place of the token in its caption.
      captions: int32 (g R, W), which caption of the group the token belongs to; n where none.
      ends_gxn: int32, slot of each caption's end token among the S of its group.
    """

    tokens: jax.Array
    positions: jax.Array
    captions: jax.Array
    ends_gxn: jax.Array


def row_width(context_length: int) -> int:
    """W: 13/8 of the longest caption, in steps of 8; 128 for CLIP's 77 tokens, a TPU's tile.

    A wider row is filled better, and costs more attention.
    """
    return -(-context_length * 13 // (8 * STEP)) * STEP


def group_size(batch: int) -> int:
    """n: GROUP, or the largest part of it that divides the batch."""
    return math.gcd(batch, GROUP)


def row_count(captions: int, budget: int, context_length: int) -> int:
    """R: rows with room for `budget` tokens of each caption."""
    return -(-captions * budget // row_width(context_length))


def lengths_of(tokens_BxT: Array) -> Array:
    """Tokens of each caption with start and end, int (B,). The end token has the highest id."""
    return tokens_BxT.argmax(axis=-1) + 1


def place(lengths_gxn: Array, budget: int, context_length: int) -> tuple[jax.Array, jax.Array]:
    """First fit decreasing. If not all fit, the longest are cut, to one length, until they do.

    Args:
      lengths_gxn: int, of the captions of a group.
      budget: slots a caption, at least 2.
      context_length: no caption is longer.

    Returns:
      (kept, starts): int32 (g, n), tokens of each caption that are kept, at least 2 of it, and the
      first of its slots in its group.
    """
    width = row_width(context_length)
    rows_R = jnp.arange(row_count(lengths_gxn.shape[-1], budget, context_length))
    # All limits on a caption's length are tried at once.
    limits_T = jnp.arange(1, context_length + 1)
    order_gxn = jnp.argsort(-lengths_gxn, axis=-1)
    sorted_gxn = jnp.take_along_axis(jnp.asarray(lengths_gxn, jnp.int32), order_gxn, axis=-1)
    kept_nxgxT = jnp.minimum(sorted_gxn.T[:, :, None], limits_T)

    def put(free_gxTxR: jax.Array, length_gxT: jax.Array):
        has_room_gxTxR = free_gxTxR >= length_gxT[..., None]
        is_first_gxTxR = rows_R == has_room_gxTxR.argmax(axis=-1)[..., None]
        start_gxT = jnp.where(is_first_gxTxR, (rows_R + 1) * width - free_gxTxR, 0).sum(axis=-1)
        free_gxTxR = free_gxTxR - is_first_gxTxR * length_gxT[..., None]
        return free_gxTxR, (start_gxT, has_room_gxTxR.any(axis=-1))

    free = jnp.full((*kept_nxgxT.shape[1:], rows_R.size), width, jnp.int32)
    _, (starts_nxgxT, fit_nxgxT) = jax.lax.scan(put, free, kept_nxgxT)
    limit_g = (fit_nxgxT.all(axis=0) * limits_T).max(axis=-1).astype(jnp.int32)
    starts_gxn = jnp.take_along_axis(starts_nxgxT, limit_g[None, :, None] - 1, axis=-1)[..., 0].T
    starts_gxn = jnp.take_along_axis(starts_gxn, jnp.argsort(order_gxn, axis=-1), axis=-1)
    return jnp.minimum(lengths_gxn, limit_g[:, None]).astype(jnp.int32), starts_gxn


def pack(tokens_BxT: jax.Array, budget: int) -> Packed:
    """Packs captions; see `place` for those of a group that are too long together.

    Args:
      tokens_BxT: int32, start token, caption, end token, zeros.
      budget: slots a caption, from 2 to T.
    """
    batch, length = tokens_BxT.shape
    count, width = group_size(batch), row_width(length)
    tokens_gxnxT = tokens_BxT.reshape(-1, count, length)
    full_gxn = lengths_of(tokens_gxnxT)
    kept_gxn, starts_gxn = place(full_gxn, budget, length)
    # A caption that is cut ends with its end token, as tokenizer.tokenize cuts.
    end_gxnx1 = jnp.take_along_axis(tokens_gxnxT, full_gxn[..., None] - 1, axis=-1)
    is_last_gxnxT = jnp.arange(length) == kept_gxn[..., None] - 1
    tokens_gxnxT = jnp.where(is_last_gxnxT, end_gxnx1, tokens_gxnxT)

    slots = row_count(count, budget, length) * width
    place_gxnxS = jnp.arange(slots) - starts_gxn[..., None]
    is_own_gxnxS = (place_gxnxS >= 0) & (place_gxnxS < kept_gxn[..., None])
    is_used_gxS = is_own_gxnxS.any(axis=1)
    caption_gxS = is_own_gxnxS.argmax(axis=1).astype(jnp.int32)
    positions_gxS = jnp.where(is_own_gxnxS, place_gxnxS, 0).sum(axis=1, dtype=jnp.int32)
    flat_gxS = jnp.take_along_axis(
        tokens_gxnxT.reshape(-1, count * length), caption_gxS * length + positions_gxS, axis=1
    )
    return Packed(
        jnp.where(is_used_gxS, flat_gxS, 0).reshape(-1, width),
        positions_gxS.reshape(-1, width),
        jnp.where(is_used_gxS, caption_gxS, count).reshape(-1, width),
        starts_gxn + kept_gxn - 1,
    )


def caption_mask(captions: jax.Array) -> jax.Array:
    """Which tokens a token attends to, bool (g R, 1, W, W): those before it in its caption, and itself.

    Args:
      captions: int32 (g R, W), of Packed.
    """
    places = jnp.arange(captions.shape[-1])
    is_same = captions[:, :, None] == captions[:, None, :]
    return (is_same & (places[:, None] >= places))[:, None]


@functools.partial(jax.jit, static_argnums=1)
def cut_share(tokens_BxT: Array, budget: int) -> jax.Array:
    """Share of the captions that `pack` cuts, float32 scalar."""
    batch, length = tokens_BxT.shape
    lengths_gxn = lengths_of(tokens_BxT).reshape(-1, group_size(batch))
    return (place(lengths_gxn, budget, length)[0] < lengths_gxn).mean(dtype=jnp.float32)


def fitting_budget(tokens_BxT: np.ndarray) -> int:
    """The smallest budget, in steps of STEP, with which `pack` cuts none; at most T."""
    batch, length = tokens_BxT.shape
    most = lengths_of(tokens_BxT).reshape(-1, group_size(batch)).mean(axis=1).max()
    budgets = range(math.ceil(most / STEP) * STEP, length, STEP)
    return next((b for b in budgets if not cut_share(tokens_BxT, b)), length)
