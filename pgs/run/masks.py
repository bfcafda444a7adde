"""A trained model's masks: how much of known objects they keep, and a figure of all strategies."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from input_pipeline import images as image_ops
from input_pipeline import openmoji
from input_pipeline.embedded import missing_line, missing_packages
from input_pipeline.sources import Records, captions_of
from pgs.masking import configured, known_strategies, object_retention
from pgs.masking.edges import edge_scores
from pgs.masking.selection import PatchSelection, mask_ratio, visible_patches
from pgs.models import CLIP, normalize_images
from pgs.models.class_attention import make_scorer
from pgs.run import figures
from pgs.utils.distributed import print_once

RETENTION_IMAGES = 200
CREDIT = f'{openmoji.CREDIT}. Photographs: scikit-image.'
FIGURE_ROWS = 3  # images of the data set, and as many objects over photographs


class Retention(NamedTuple):
    """Object retention and the masked fraction at which it was measured."""

    share: float  # of the object's patches that stay visible, in [0, 1]
    masked: float  # fraction of all patches, in (0, 1); a random mask keeps 1 - masked
    images: str  # what it was measured on


class Objects(NamedTuple):
    """Images whose object is known."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    opacity: np.ndarray  # of the object, uint8 (N, H, W)
    name: str


def known_objects(held_out: Records | None, image_size: int) -> Objects | None:
    """Held-out images with the exact masks of their objects, as the evaluation sees them.

    Args:
      held_out: a source whose records have `alpha`, an image of the object's opacity. For None,
        and for other sources, emoji over photographs take its place.
      image_size: pixels.

    Returns:
      None, with a note, if there are no emoji to take its place: see embedded.PACKAGES.
    """
    if held_out is None or 'alpha' not in held_out[0]:
        if missing_packages():
            print_once(f'note: {missing_line("measuring object retention")}')
            return None
        images, opacity, _ = objects_over_photographs(image_size, RETENTION_IMAGES)
        return Objects(images, opacity, 'emoji over photographs')
    records = spread_records(held_out, RETENTION_IMAGES)
    views = [image_ops.centre_crop(r['image'], image_size=image_size) for r in records]
    masks = [image_ops.centre_crop(r['alpha'], image_size=image_size)[..., 0] for r in records]
    return Objects(np.stack(views), np.stack(masks), 'held-out images')


def spread_records(source: Records, count: int) -> list[dict[str, Any]]:
    """Records from all over a source, at most `count`, the same ones every time."""
    chosen = np.linspace(0, len(source), count, endpoint=False).astype(int)
    return source.__getitems__(np.unique(chosen).tolist())


def objects_over_photographs(
    image_size: int, count: int, *, first: int = 0, photos: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """OpenMoji images over photographs, the same ones every time.

    Args:
      image_size: pixels.
      count: emoji, in the order of their hash.
      first: the number of the first one.
      photos: which of the photographs take turns behind them.

    Returns:
      (uint8 (count, H, W, 3), opacity uint8 (count, H, W), names).
    """
    items = sorted((i for s in openmoji.splits().values() for i in s), key=openmoji.item_hash)
    items = items[first : first + count]
    rgba = np.stack([openmoji.render(stem, image_size) for stem, _ in items])
    white = np.stack([openmoji.over_white(r) for r in rgba])
    behind = object_retention.photographs(image_size)[photos]
    mixed = object_retention.over_photographs(white, rgba[..., 3], behind)
    return mixed, rgba[..., 3], [name for _, name in items]


def make_select(
    model: CLIP, masking: Mapping[str, Any], *, seed: int
) -> Callable[[Any, np.ndarray, float], PatchSelection]:
    """A jitted function (params, images uint8, progress) -> PatchSelection of a strategy."""
    strategy = configured(masking, model.image.patch_size)
    score = make_scorer(strategy, model.image)

    def apply(params, images, progress):
        normalized = normalize_images(images)
        scores = score(params['image_tower'], normalized)
        select = functools.partial(strategy, jax.random.key(seed), progress=progress, **scores)
        return model.apply({'params': params}, normalized, select, method=CLIP.select_patches)

    return jax.jit(apply)


def measure_retention(
    config: ConfigDict, model: CLIP, params: Any, held_out: Records | None
) -> Retention | None:
    """Object retention of the configured strategy, with the trained embeddings.

    It is measured with one half of the patches masked where the strategy has an option for that
    (see object_retention.at_half), otherwise at the strategy's own ratio.

    Args:
      config: as configs/base.py.
      model, params: the trained model.
      held_out: the run's held-out pairs, see `known_objects`.

    Returns:
      None where the strategy masks nothing, and without objects (see `known_objects`).
    """
    return make_retention(config, model, held_out)(params)


def make_retention(
    config: ConfigDict, model: CLIP, held_out: Records | None
) -> Callable[[Any], Retention | None]:
    """measure_retention as a function of the parameters, which compiles once for all of them."""
    known = known_objects(held_out, model.image.image_size)
    if known is None:
        return lambda params: None
    objects = object_retention.object_patches(known.opacity, model.image.patch_size)
    masking = object_retention.at_half(config.masking)
    select = make_select(model, masking, seed=config.seed)

    def measure(params: Any) -> Retention | None:
        selection = jax.device_get(select(params, known.images, 1.0))
        masked = float(np.mean(mask_ratio(selection, model.image.num_patches)))
        if masked == 0.0:
            return None
        return Retention(object_retention.retention(selection, objects), masked, known.name)

    return measure


def visible_by_strategy(
    names: Iterable[str],
    select: Callable[[str], PatchSelection],
    num_patches: int,
    left_out: Callable[[str, str], None],
) -> dict[str, np.ndarray]:
    """What each strategy leaves visible: name -> bool (N, L).

    Args:
      names: of strategies.
      select: the patches of N images by the strategy of a name.
      num_patches: L.
      left_out: is told of a strategy that fails, with the reason; the others go on.
    """
    visible = {}
    for name in names:
        try:
            selection = jax.device_get(select(name))
        except Exception as error:  # whatever a strategy raises
            left_out(name, (str(error) or repr(error)).splitlines()[0])
            continue
        visible[name] = visible_patches(selection, num_patches)
    return visible


def draw_masks(
    config: ConfigDict, model: CLIP, params: Any, source: Records, path: epath.Path
) -> None:
    """Writes figures/masks.png: a few images of the data set, then objects over photographs.

    Without the packages that show these (embedded.PACKAGES), the data set's own images are all.
    A strategy that cannot run with this config's options is left out, with a warning: another
    strategy's mistake must not end a run that has been trained.
    """
    image = model.image
    step = max(len(source) // FIGURE_ROWS, 1)
    records = source.__getitems__(list(range(0, len(source), step))[:FIGURE_ROWS])
    own = [image_ops.centre_crop(r['image'], image_size=image.image_size) for r in records]
    images, captions, credit = np.stack(own), [captions_of(r)[0] for r in records], ''
    if not missing_packages():
        mixed, _, names = objects_over_photographs(image.image_size, FIGURE_ROWS)
        images = np.concatenate([images, mixed])
        captions += [f'{name}, over a photograph' for name in names]
        credit = CREDIT

    def select(name: str) -> PatchSelection:
        masking = dict(config.masking) | {'strategy': name}
        return make_select(model, masking, seed=config.seed)(params, images, 1.0)

    def left_out(name: str, reason: str) -> None:
        print_once(f'warning: strategy {name!r} is left out of {path.name}: {reason}')

    visible = visible_by_strategy(known_strategies(), select, image.num_patches, left_out)
    edges = np.asarray(edge_scores(normalize_images(images), image.patch_size))
    figure = figures.masks_figure(images, edges, visible, captions, image.patch_size, credit)
    figures.save(figure, path)
