"""The strategies that pick the patches which the image tower sees (method steps 3, 5 and 6).

A strategy is a pure function

    strategy(rng, images, patch_embeddings, progress, *, patch_size, **options) -> PatchSelection

with rng a key for each image (B,), or one from which they are split, images float32 (B, H, W, 3),
patch_embeddings (B, L, D) after the position embedding, and progress = step / total_steps in [0, 1].
Shapes depend on the options alone, and no gradient flows through it.
To add one: write the function, put it into STRATEGIES, and name its options in config.masking.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.budget import Buckets, plan, spend
from pgs.masking.edges import edge_scores
from pgs.masking.similarity import patch_similarity
from pgs.masking.transport import balance, rescale


@flax.struct.dataclass
class PatchSelection:
    """The patches that stay visible.

    keep_ids: int32 (B, K), ascending positions in [0, L).
    valid: bool (B, K), False where an image masks more than the batch's K allows for; None where
      every slot of every image counts, so that no attention mask is needed at all.
    buckets: sizes of the buckets that `valid` fits into, None where each image has K slots.
    """

    keep_ids: jax.Array
    valid: jax.Array | None
    buckets: Buckets | None = flax.struct.field(pytree_node=False, default=None)

    def mean_slots(self) -> float:
        """Patches that the image tower runs on for one image, padding too."""
        kept = self.keep_ids.shape[1]
        if self.buckets is None:
            return float(kept)
        short = self.buckets.short / self.buckets.group
        return short * self.buckets.slots + (1.0 - short) * kept


def mask_ratio(selection: PatchSelection, num_patches: int) -> jax.Array:
    """Masked fraction of each image, float32 (B,) in [0, 1)."""
    batch, kept = selection.keep_ids.shape
    if selection.valid is None:
        return jnp.full((batch,), 1.0 - kept / num_patches)
    return 1.0 - selection.valid.sum(axis=1) / num_patches


def draw(sample: Callable, rng: jax.Array, batch: int, length: int) -> jax.Array:
    """float32 sample(key, (length,)) for each image: its draw hangs on its key alone."""
    keys_B = rng if rng.ndim else jax.random.split(rng, batch)
    return jax.vmap(lambda key: sample(key, (length,), jnp.float32))(keys_B)


def check_ratio(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise UserError(f'masking.{name}={value} is no fraction of the patches: give 0 <= x < 1')


def masked_counts(num_patches: int, min_ratio: float, max_ratio: float) -> tuple[int, int]:
    """Fewest and most masked patches of an image: ceil(r_min * L) and floor(r_max * L).

    Where no whole number of patches lies between the ratios, the next one above r_min is taken.

    Raises:
      UserError: a ratio outside [0, 1), r_min above r_max, or no patch left.
    """
    check_ratio('min_ratio', min_ratio)
    check_ratio('max_ratio', max_ratio)
    if min_ratio > max_ratio:
        raise UserError(
            f'masking.min_ratio={min_ratio} is above masking.max_ratio={max_ratio}: '
            'lower the one or raise the other'
        )
    slack = 1e-9 * num_patches  # 0.07 * 100 is 7.000000000000001 in floating point
    fewest = math.ceil(min_ratio * num_patches - slack)
    if fewest >= num_patches:
        raise UserError(
            f'masking.min_ratio={min_ratio} leaves none of {num_patches} patches: lower it'
        )
    return fewest, max(fewest, math.floor(max_ratio * num_patches + slack))


def select_ranked(order_BxL: jax.Array, count_B: jax.Array, fewest: int, most: int):
    """Turns a masking order into a selection of static shape.

    Args:
      order_BxL: int, patch positions, first to be masked first.
      count_B: int, masked patches of each image, in [fewest, most].
      fewest, most: bounds of count_B; K = L - fewest slots are kept.
    """
    rank_BxL = jnp.argsort(order_BxL, axis=-1)
    keep_BxK = jnp.sort(order_BxL[:, fewest:], axis=-1).astype(jnp.int32)
    if fewest == most:
        return PatchSelection(keep_BxK, None)
    valid_BxK = jnp.take_along_axis(rank_BxL, keep_BxK, axis=-1) >= count_B[:, None]
    return PatchSelection(keep_BxK, valid_BxK)


def none(rng, images, patch_embeddings, progress, *, patch_size) -> PatchSelection:
    """CLIP: all patches stay."""
    del rng, images, progress, patch_size
    batch, length, _ = patch_embeddings.shape
    keep = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    return PatchSelection(keep, None)


def random(
    rng, images, patch_embeddings, progress, *, patch_size, mask_ratio: float = 0.5
) -> PatchSelection:
    """FLIP (arXiv 2212.00794): round(mask_ratio * L) patches go, each equally likely."""
    del images, progress, patch_size
    check_ratio('mask_ratio', mask_ratio)
    batch, length, _ = patch_embeddings.shape
    masked = min(round(mask_ratio * length), length - 1)
    order = jnp.argsort(draw(jax.random.uniform, rng, batch, length), axis=-1)
    return select_ranked(order, jnp.full((batch,), masked), masked, masked)


class PgsSteps(NamedTuple):
    """What PGS computes on its way: for figures, notebooks and tests."""

    edges_BxL: jax.Array  # E in [0, 1]
    similarity_BxLxL: jax.Array  # S in [-1, 1]
    candidates_BxC: jax.Array  # int32 positions of the pre-selected patches
    affinity_BxL: jax.Array  # L * P to the closest candidate; 1 is a uniform coupling
    wanted_B: jax.Array  # int32, masked patches of each image, by its content alone
    masked_B: jax.Array  # int32, and within the token budget
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
    budget_group: int = 16,
    long_share: float = 0.5,
) -> PgsSteps:
    """Patch generation-to-selection with all its intermediate results; see `pgs`."""
    images, patch_embeddings, progress = jax.lax.stop_gradient((images, patch_embeddings, progress))
    length = patch_embeddings.shape[1]
    fewest, most = masked_counts(length, min_ratio, max_ratio)
    check_ratio('candidate_ratio', candidate_ratio)
    if epsilon <= 0.0:
        raise UserError(f'masking.epsilon={epsilon} must be above 0; the default is 0.1')
    if threshold <= 0.0:
        raise UserError(f'masking.threshold={threshold} must be above 0; the default is 1')

    if budget_group < 1:
        raise UserError(f'masking.budget_group={budget_group} must be at least 1 image')
    if not 0.0 <= long_share <= 1.0:
        raise UserError(f'masking.long_share={long_share} must be from 0 to 1; 1 pads every image')

    edges_BxL = edge_scores(images, patch_size)
    beta = edge_weight if use_edges else 0.0

    # Generation: Gumbel top-k draws without replacement, in proportion to exp(-beta * E).
    num_candidates = max(1, round(candidate_ratio * length))
    gumbel_BxL = draw(jax.random.gumbel, rng, *edges_BxL.shape)
    _, candidates_BxC = jax.lax.top_k(gumbel_BxL - beta * edges_BxL, num_candidates)

    # Balance, then the rows of the candidates: log(L * P_ij), the closest candidate i for each j.
    similarity_BxLxL = patch_similarity(images, patch_embeddings, progress, patch_size=patch_size)
    scale = balance if use_transport else rescale
    log_plan_BxLxL = scale(similarity_BxLxL, epsilon)
    log_rows_BxCxL = jnp.take_along_axis(log_plan_BxLxL, candidates_BxC[:, :, None], axis=1)
    log_affinity_BxL = log_rows_BxCxL.max(axis=1) + math.log(length)

    # Selection: candidates first, then what is most like them and least of an edge.
    is_candidate_BxL = (candidates_BxC[:, :, None] == jnp.arange(length)).any(axis=1)
    score_BxL = jnp.where(is_candidate_BxL, jnp.inf, log_affinity_BxL - beta * edges_BxL)
    alike_B = (log_affinity_BxL > math.log(threshold)).sum(axis=-1)
    wanted_B = jnp.clip(alike_B, fewest, most).astype(jnp.int32)
    buckets = None
    if fewest < most:
        buckets = plan(images.shape[0], budget_group, long_share, slots=length - most)
    masked_B = spend(wanted_B, most, buckets)
    order_BxL = jnp.argsort(-score_BxL, axis=-1)
    return PgsSteps(
        edges_BxL,
        similarity_BxLxL,
        candidates_BxC,
        jnp.exp(log_affinity_BxL),
        wanted_B,
        masked_B,
        select_ranked(order_BxL, masked_B, fewest, most).replace(buckets=buckets),
    )


@functools.wraps(pgs_steps, assigned=())  # its signature, which `configured` reads, not its name
def pgs(*args, **options) -> PatchSelection:
    """CLIP-PGS (arXiv 2503.17080): masks what resembles a few chosen patches, spares object edges.

    The defaults are PGS-0.3; min_ratio = max_ratio = 0.5 is PGS-0.5.

    Args:
      rng: a key for each image (B,), or one for all; the same key gives the same mask.
      images: float (B, H, W, 3), any pixel scale.
      patch_embeddings: (B, L, D) after the position embedding.
      progress: step / total_steps in [0, 1]; from pixel to embedding similarity.
      patch_size: side of a patch in pixels.
      candidate_ratio: pre-selected share of the patches, in [0, 1); at least one patch.
      min_ratio, max_ratio: bounds of the masked fraction of each image, in [0, 1).
      edge_weight: beta >= 0, how strongly an edge keeps a patch from being masked.
      epsilon: entropy of the transport, > 0.
      threshold: balanced similarity L * P above which a patch counts as alike, > 0.
      use_edges: ED of the paper's ablation; off sets beta to 0.
      use_transport: OTN of the paper's ablation; off rescales by one scalar an image.
      budget_group, long_share: where min_ratio < max_ratio, images that share a token budget, and
        the share of them that may keep more than max_ratio leaves; 1 pads every image (budget.py).

    Raises:
      UserError: a ratio outside [0, 1), min_ratio > max_ratio, epsilon or threshold <= 0, a budget
        of no images or of a share outside [0, 1].
    """
    return pgs_steps(*args, **options).selection


def selection_shape(
    strategy: Callable, image_size: int, patch_size: int, batch: int = 1
) -> PatchSelection:
    """Shapes and dtypes that a configured strategy gives for a batch; nothing is computed.

    Raises:
      UserError: options that do not fit the number of patches.
    """
    length = (image_size // patch_size) ** 2
    return jax.eval_shape(
        functools.partial(strategy, progress=0.0),
        jax.random.key(0),
        jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch, length, 1), jnp.float32),
    )


STRATEGIES: dict[str, Callable[..., PatchSelection]] = {'none': none, 'random': random, 'pgs': pgs}


def configured(masking, patch_size: int) -> Callable[..., PatchSelection]:
    """The strategy that config.masking names, its options bound.

    A strategy's keyword arguments are the keys of config.masking that it reads.

    Args:
      masking: mapping with 'strategy' and the options of every strategy.
      patch_size: side of a patch in pixels.

    Returns:
      (rng, images, patch_embeddings, progress) -> PatchSelection

    Raises:
      UserError: unknown strategy, or an option that config.masking lacks.
    """
    name = masking['strategy']
    if name not in STRATEGIES:
        near = difflib.get_close_matches(str(name), STRATEGIES, n=1)
        hint = f'did you mean {near[0]!r}? ' if near else ''
        raise UserError(
            f'masking.strategy={name!r} is unknown: {hint}known are {", ".join(STRATEGIES)}'
        )
    strategy = STRATEGIES[name]
    options = [
        p.name
        for p in inspect.signature(strategy).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name != 'patch_size'
    ]
    missing = [o for o in options if o not in masking]
    if missing:
        raise UserError(
            f'strategy {name!r} needs config.masking.{missing[0]}: set it in the config file'
        )
    return functools.partial(strategy, patch_size=patch_size, **{o: masking[o] for o in options})
