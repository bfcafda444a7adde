"""Measures starvation: the patches that a strategy hardly ever shows to the image tower.

  python -m benchmarks.starvation [--images=32] [--draws=200] [--checkpoint=RUN] [--out=FILE.json]

All strategies run with the defaults of configs/base.py on three sets of images, and PGS also with
selection_noise. Without a checkpoint the patch embedding is an untrained one of ViT-B/16 at 224
pixels; with one, the table has rows with its trained embeddings and with untrained ones of the same
shape. The command prints the table as Markdown and writes JSON and a figure (docs/masking.md).
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks import common
from configs import base
from input_pipeline import openmoji, scenes
from input_pipeline.images import resize_array
from input_pipeline.photographs import full_size
from pgs.convert import load_model
from pgs.errors import UserError
from pgs.masking import PatchSelection, configured, known_strategies
from pgs.masking.starvation import RARELY, seen_share, starved_share
from pgs.masking.strategies import SELECTOR, label, options_of, selection_shape
from pgs.models import CLIP, build_model, normalize_images
from pgs.models.class_attention import make_scorer
from pgs.utils import cli
from pgs.utils.files import write_json, writing

IMAGES = flags.DEFINE_integer('images', 32, 'Images of each set.', lower_bound=1, upper_bound=1000)
DRAWS = flags.DEFINE_integer('draws', 200, 'Masks of each image, over a run.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/starvation.json', 'Path of the results.')
CHECKPOINT, MODEL_CONFIG = cli.define_checkpoint_flags()

NOISE = 'selection_noise'  # a strategy with this option is measured with it too
SHOWN = 2  # images of each set in the figure
Seen = dict[str, dict[str, np.ndarray]]  # name of a row -> set -> (N, L), see seen_share


def image_sets(size: int, count: int) -> dict[str, np.ndarray]:
    """Name of a set -> uint8 (count, size, size, 3). The emoji are the same in both sets."""
    items = sorted((i for s in openmoji.splits().values() for i in s), key=openmoji.item_hash)
    stems = [stem for stem, _ in items[:count]]
    white = [openmoji.over_white(openmoji.render(stem)) for stem in stems]
    over = [scenes.scene(stem, 0, 'validation')[0] for stem in stems]
    sets = {
        'OpenMoji over white': white,
        'OpenMoji over photographs': over,
        'photographs': photograph_crops(count),
    }
    return {
        name: np.stack([resize_array(np.ascontiguousarray(i), size, size) for i in images])
        for name, images in sets.items()
    }


def photograph_crops(count: int) -> list[np.ndarray]:
    """Square crops at random places, of half of a photograph's shorter side or more."""
    rng, crops = np.random.default_rng(0), []
    for i in range(count):
        photo = full_size()[i % len(full_size())]
        shorter = min(photo.shape[:2])
        side = int(rng.integers(shorter // 2, shorter + 1))
        top, left = (int(rng.integers(0, room - side + 1)) for room in photo.shape[:2])
        crops.append(photo[top : top + side, left : left + side])
    return crops


def paper_model() -> CLIP:
    """The paper's image tower with one block: its patch embedding is all that is used."""
    settings = base.get_config().model
    settings.image.layers = 1
    return build_model(settings, dtype=jnp.float32)


def untrained(model: CLIP) -> Any:
    """Fresh parameters of the image tower."""
    create = functools.partial(model.init, method=CLIP.embed_images)
    images = jnp.zeros((1, model.image.image_size, model.image.image_size, 3))
    return jax.jit(create)(jax.random.key(0), images)['params']


def patch_embeddings(model: CLIP, params: Any, images_NxHxWx3: jax.Array) -> jax.Array:
    """Patch embeddings after the position embedding, (N, L, D)."""
    found = []

    def keep_all(images: jax.Array, embeddings: jax.Array) -> PatchSelection:
        del images
        found.append(embeddings)
        count, length, _ = embeddings.shape
        return PatchSelection(jnp.broadcast_to(jnp.arange(length), (count, length)))

    def embed(images: jax.Array) -> jax.Array:
        model.apply({'params': params}, images, keep_all, method=CLIP.select_patches)
        return found[-1]

    return jax.jit(embed)(images_NxHxWx3)


def measure(model: CLIP, params: Any, sets: dict[str, np.ndarray], draws: int) -> Seen:
    """`seen_share` of every strategy on every set; a strategy that does not fit is left out."""
    size, patch = model.image.image_size, model.image.patch_size
    images = {name: normalize_images(pixels) for name, pixels in sets.items()}
    embeddings = {name: patch_embeddings(model, params, i) for name, i in images.items()}
    seen: Seen = {}
    variants = [(name, {}) for name in known_strategies()]
    variants += [(n, {NOISE: 0.5}) for n, s in known_strategies().items() if NOISE in options_of(s)]
    for name, options in variants:
        masking = dict(base.get_config().masking) | {SELECTOR: name} | options
        try:
            strategy = configured(masking, patch)
            row = label(name, selection_shape(strategy, size, patch), model.image.num_patches)
            score = make_scorer(strategy, model.image)
        except UserError as error:
            print(f'{name} is left out: {error}', flush=True)
            continue
        row = ', '.join([row, *(f'{key}={value}' for key, value in options.items())])

        def share(images: jax.Array, embeddings: jax.Array, strategy=strategy, score=score):
            select = functools.partial(strategy, **score(params['image_tower'], images))
            return seen_share(select, images, embeddings, draws=draws, seed=0)

        compiled = jax.jit(share)
        print(f'{row}: {draws} draws of each image', flush=True)
        seen[row] = {s: np.asarray(compiled(images[s], embeddings[s])) for s in sets}
    return seen


def markdown_table(seen: Seen) -> str:
    """Percent of starved patches, a row for each strategy and a column for each set."""
    sets = list(next(iter(seen.values())))
    lines = [['strategy', *sets], ['---', *['---:'] * len(sets)]]
    for row, by_set in seen.items():
        lines.append([row, *(f'{100 * starved_share(by_set[s]):.1f} %' for s in sets)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def seen_figure(sets: dict[str, np.ndarray], seen: Seen) -> Figure:
    """A few images of each set and a map for each strategy; starved patches are red."""
    shown = [(name, i) for name, images in sets.items() for i in range(min(SHOWN, len(images)))]
    colors = matplotlib.colormaps['viridis'].with_extremes(under='#d62828')
    figure = Figure(figsize=(1.25 * (1 + len(seen)) + 0.8, 1.25 * len(shown) + 0.6))
    figure.set_layout_engine('constrained', rect=(0, 0.02, 1, 0.98))
    axes = figure.subplots(len(shown), 1 + len(seen), squeeze=False)
    for line, (name, i) in zip(axes, shown, strict=True):
        line[0].imshow(sets[name][i])
        for axis, by_set in zip(line[1:], seen.values(), strict=True):
            side = round(by_set[name].shape[1] ** 0.5)
            drawn = axis.imshow(
                by_set[name][i].reshape(side, side), cmap=colors, vmin=RARELY, vmax=1
            )
    for axis, title in zip(axes[0], ['image', *seen], strict=True):
        axis.set_title(title.replace(', ', ',\n'), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, extend='min', fraction=0.02)
    bar.set_label(f'share of the draws in which a patch is seen; red: below {RARELY:.0%}')
    credit = f'{openmoji.CREDIT}. Photographs: scikit-image.'
    figure.text(0.995, 0.002, credit, ha='right', va='bottom', fontsize=6, color='0.4')
    return figure


def measure_all(
    checkpoint: str | None, model_config: str | None, count: int, draws: int
) -> tuple[dict[str, np.ndarray], Seen]:
    """The sets, and what is seen of them with untrained embeddings and with a checkpoint's."""
    if checkpoint is None:
        model = paper_model()
        sets = image_sets(model.image.image_size, count)
        return sets, measure(model, untrained(model), sets, draws)
    loaded = load_model(checkpoint, model_config=model_config)
    sets = image_sets(loaded.model.image.image_size, count)
    kinds = {'untrained': untrained(loaded.model), 'trained': loaded.params}
    seen = {kind: measure(loaded.model, params, sets, draws) for kind, params in kinds.items()}
    return sets, {f'{row}, {kind}': seen[kind][row] for row in seen['untrained'] for kind in kinds}


def main(argv: list[str]) -> None:
    del argv
    sets, seen = measure_all(CHECKPOINT.value, MODEL_CONFIG.value, IMAGES.value, DRAWS.value)
    print(f'\nPatches that are seen in fewer than {RARELY:.0%} of {DRAWS.value} draws:\n')
    print(markdown_table(seen))
    result = {
        'machine': common.machine(),
        'checkpoint': CHECKPOINT.value,
        'images': IMAGES.value,
        'draws': DRAWS.value,
        'starved': {row: {s: starved_share(v) for s, v in r.items()} for row, r in seen.items()},
        'seen': {row: {s: float(v.mean()) for s, v in r.items()} for row, r in seen.items()},
    }
    path = Path(OUT.value)
    with writing(f'--out={path}'):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(str(path), result)
        seen_figure(sets, seen).savefig(path.with_suffix('.png'), dpi=90)
    print(f'\nWritten: {path} and {path.with_suffix(".png")}')


if __name__ == '__main__':
    cli.run(main)
