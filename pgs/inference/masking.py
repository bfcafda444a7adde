"""The mask that a model is scored with: none, the one of its training, or any strategy's.

docs/evaluation.md explains the choice. Shape: B images.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from pgs.errors import UserError, did_you_mean
from pgs.masking.selection import PatchSelection
from pgs.masking.strategies import (
    SELECTOR,
    check_output,
    configured,
    find_strategy,
    known_strategies,
    label,
    options_of,
    selection_shape,
)
from pgs.models.class_attention import make_scorer
from pgs.models.clip import CLIP
from pgs.models.image_tower import ImageTowerSettings
from pgs.utils.distributed import print_once
from pgs.utils.files import read_json

WHOLE = 'none'  # all patches; also the name of the strategy that keeps them
TRAINED = 'trained'  # the strategy of the run that trained the weights
HELP = f'Mask of the images: {WHOLE}, {TRAINED} (as the run was), or the name of a strategy.'
SEED = 0
BUDGET_OPTION = 'long_share'  # share of a group with room for min_ratio; 1 is no budget


class ScoringMask(NamedTuple):
    """A strategy as at the end of training, with the same random numbers for each image.

    An image's mask does not depend on the other images of its batch, nor on its row.

    Attributes:
      settings: the strategy's name and all its options, as config.masking has them.
      label: name and masked range, for the console.
      strategy: (rng, images, patch_embeddings, progress) -> PatchSelection.
      score: of make_scorer; the image tower's own weights score patches, if the strategy asks for it.
    """

    settings: dict[str, Any]
    label: str
    strategy: functools.partial[PatchSelection]
    score: Callable[[Any, jax.Array], dict[str, jax.Array]]

    def select_with(
        self, params: Any, images: jax.Array
    ) -> Callable[[jax.Array, jax.Array], PatchSelection]:
        """`select` for CLIP.embed_images with these parameters and normalised images (B, H, W, 3)."""
        keys_B = jnp.broadcast_to(jax.random.key(SEED), images.shape[:1])
        scores = self.score(params['image_tower'], images)
        return functools.partial(self.strategy, keys_B, progress=1.0, **scores)


def scoring_mask(masking: Mapping[str, Any], image: ImageTowerSettings) -> ScoringMask | None:
    """The mask of a strategy, without its token budget, in which images share their room.

    Args:
      masking: config.masking of a run; until and whole_share play no part.
      image: settings of the image tower.

    Returns:
      None where the strategy masks nothing.

    Raises:
      UserError: as `configured`, or options that do not fit the number of patches.
    """
    defaults = options_of(find_strategy(masking[SELECTOR]))
    no_budget = {BUDGET_OPTION: 1.0} if BUDGET_OPTION in defaults else {}
    strategy = configured(dict(masking) | no_budget, image.patch_size)
    shape = selection_shape(strategy, image.image_size, image.patch_size)
    if shape.masked_range(image.num_patches) == (0, 0):
        return None
    options = {name: strategy.keywords.get(name, value) for name, value in defaults.items()}
    settings = {SELECTOR: masking[SELECTOR]} | options
    name = label(masking[SELECTOR], shape, image.num_patches)
    return ScoringMask(settings, name, strategy, make_scorer(strategy, image))


def find_mask(masking: str, checkpoint: str | os.PathLike, model: CLIP) -> ScoringMask | None:
    """The mask that `masking` names for a checkpoint; None scores whole images.

    Args:
      masking: 'none'; 'trained', the strategy of the run whose folder the checkpoint is; or the
        name of a strategy, with that run's options, or with its defaults for other weights.
      checkpoint: as pgs.convert.load_model.
      model: of the checkpoint.

    Raises:
      UserError: an unknown name, 'trained' for weights that are not a run's folder, or a strategy
        whose options do not fit the model's patches.
    """
    if masking == WHOLE:
        return None
    known = (WHOLE, TRAINED, *sorted(known_strategies().keys() - {WHOLE}))
    if masking not in known:
        hint = did_you_mean(masking, known)
        raise UserError(f'masking={masking} is unknown: {hint}known are {", ".join(known)}')
    settings = run_masking(checkpoint)
    if masking != TRAINED:
        settings = dict(settings or {}) | {SELECTOR: masking}
    if settings is None:
        raise UserError(
            f'masking={TRAINED} needs the folder of a run, whose config.json names its mask; '
            f'{checkpoint} is none: take {", ".join(n for n in known if n != TRAINED)}'
        )
    image = model.image
    try:
        mask = scoring_mask(settings, image)
        if mask is not None:
            check_output(settings[SELECTOR], mask.strategy, image.image_size, image.patch_size)
    except (UserError, TypeError, ValueError) as error:  # the latter two from JAX, for bad shapes
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f'masking={masking} does not fit {checkpoint}, {image.num_patches} patches an image: '
            f'{reason}'
        ) from error
    if mask is None:
        print_once(
            f'note: masking={masking} masks nothing, by the options of {checkpoint}: '
            'whole images are scored'
        )
    return mask


def run_masking(checkpoint: str | os.PathLike) -> dict[str, Any] | None:
    """config.masking of the run whose folder this is; None for other weights.

    Raises:
      UserError: a config.json that cannot be read.
    """
    folder = epath.Path(checkpoint).expanduser()
    if not (folder / 'checkpoints').is_dir():
        return None
    try:
        masking = dict(read_json(folder / 'config.json')['masking'])
        return masking | {SELECTOR: masking[SELECTOR]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read a run's masking in {folder}/config.json: {error!r}"
        ) from error
