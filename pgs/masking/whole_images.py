"""A share of whole images in every batch, so that a tower trained on masked ones knows them too.

In each group of images a fixed number is drawn that keeps all patches. They get a bucket of their
own with slots for all patches (budget.py), so that the others cost what they cost without them.

Shapes: B images, L patches of an image, G groups, N images of a group.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.budget import Bucket, Buckets
from pgs.masking.selection import PatchSelection, draw, visible

STREAM = 1  # folded into an image's key, so that this draw is independent of the mask's own


def keep_some_whole(
    strategy: Callable[..., PatchSelection], share: float, group: int
) -> Callable[..., PatchSelection]:
    """A strategy that leaves `share` of the images of each group whole.

    Args:
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection.
      share: in [0, 1], rounded to a number of images of a group; 0 returns the strategy itself.
      group: images of a group, unless the strategy has a token budget with groups of its own; where
        the batch is not a multiple, their greatest common divisor.

    Raises:
      UserError: a share outside [0, 1]; when called, a share that is no image of a group.
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f'masking.whole_share={share} must be from 0 to 1')
    if not share:
        return strategy
    select = functools.partial(select_with_whole, strategy=strategy, share=share, group=group)
    return functools.update_wrapper(select, strategy)  # it asks for what the strategy asks for


def select_with_whole(
    rng: jax.Array,
    images: jax.Array,
    patch_embeddings: jax.Array,
    progress: jax.Array | float,
    *,
    strategy: Callable[..., PatchSelection],
    share: float,
    group: int,
    **attention: jax.Array,
) -> PatchSelection:
    """The strategy's selection with some images of each group whole; see keep_some_whole."""
    batch, length = patch_embeddings.shape[:2]
    selection = strategy(rng, images, patch_embeddings, progress, **attention)
    group = selection.buckets.group if selection.buckets else math.gcd(batch, group)
    count = round(share * group)
    if count == 0:
        raise UserError(
            f'masking.whole_share={share} is no image of a group of {group}: raise it to '
            f'{1 / group:g}, or masking.budget_group, or set it to 0'
        )
    keys = jax.vmap(lambda key: jax.random.fold_in(key, STREAM))(
        rng if rng.ndim else jax.random.split(rng, batch)
    )
    chance_GxN = draw(jax.random.uniform, keys, batch, 1).reshape(-1, group)
    rank_GxN = jnp.argsort(jnp.argsort(chance_GxN, axis=1), axis=1)
    whole_Bx1 = (rank_GxN < count).reshape(batch, 1)
    visible_BxL = visible(selection, length) | whole_Bx1
    keep_ids = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    return PatchSelection(
        keep_ids,
        visible_BxL,
        with_whole_bucket(selection, group, count, length),
        selection.masked_range(length)[1],
    )


def with_whole_bucket(selection: PatchSelection, group: int, count: int, length: int) -> Buckets:
    """The buckets of a group of which `count` images keep all `length` patches.

    The whole images may come from any bucket. The shortest ones give up their rooms: whichever
    images are drawn, at least that many of the others still fill a short bucket exactly.
    """
    padded = selection.valid is not None
    if selection.buckets is None:
        buckets = Buckets(group, (Bucket(group, selection.keep_ids.shape[1], padded),))
    else:
        buckets = selection.buckets
    remaining, out = count, []
    for size in buckets.sizes:
        taken = min(size.images, remaining)
        remaining -= taken
        if size.images > taken:
            out.append(size._replace(images=size.images - taken))
    return Buckets(group, (*out, Bucket(count, length, False)))
