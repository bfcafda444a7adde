"""Measures what the options of PGS and its relatives do to objects and to starvation, without training.

  python -m benchmarks.mask_options [--draws=20] [--out=runs/benchmarks/mask_options.json]

Emoji over photographs at 224 pixels, one half of the patches masked, similarity of pixels (progress
0). Options are chosen on one part of the emoji and photographs and confirmed on the others. The table
has the share of object patches that stay visible, and the shares of all patches and of object
patches that fewer than 5 % of the draws show. Two edge maps are tried that the project does not
have: entropy of the luma, and Sobel at two scales. Takes about four minutes on two cores.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from einops import rearrange, reduce

from benchmarks.study_report import markdown_table
from configs.study import OPTION_TRIALS
from pgs.masking import known_strategies
from pgs.masking.edges import edge_scores, luma, min_max_scaled
from pgs.masking.object_retention import object_patches, retention
from pgs.masking.pgs import EDGE_DETECTORS
from pgs.masking.selection import visible_patches
from pgs.masking.starvation import RARELY
from pgs.models import normalize_images
from pgs.run.masks import objects_over_photographs
from pgs.utils import cli
from pgs.utils.console import progress_bar
from pgs.utils.files import write_json

DRAWS = flags.DEFINE_integer('draws', 20, 'Masks of each image.', lower_bound=2)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/mask_options.json', 'Path of the figures.')
SIZE, PATCH = 224, 16  # pixels
BINS = 16  # of the luma's histogram
RATIOS = ('min_ratio', 'max_ratio')  # the same in all trials
# name -> emoji by their hash, photographs
SETS = {'chosen': (slice(200, 260), slice(0, 2)), 'confirmed': (slice(0, 90), slice(2, 5))}


class Objects(NamedTuple):
    """Images with known objects."""

    images: jax.Array  # normalised, (N, H, W, 3)
    patches: np.ndarray  # of the object, bool (N, L)


def entropy_scores(images_BxHxWx3: jax.Array, patch_size: int) -> jax.Array:
    """Entropy of a histogram of each patch's luma, scaled per image to [0, 1]: (B, L)."""
    luma_BxHxW = luma(images_BxHxWx3)
    low = luma_BxHxW.min(axis=(1, 2), keepdims=True)
    spread = luma_BxHxW.max(axis=(1, 2), keepdims=True) - low
    level = jnp.clip((luma_BxHxW - low) / spread * BINS, 0, BINS - 1).astype(jnp.int32)
    share = reduce(
        jax.nn.one_hot(level, BINS),
        'b (h p) (w q) n -> b h w n',
        'mean',
        p=patch_size,
        q=patch_size,
    )
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-9))).sum(axis=-1)
    return min_max_scaled(rearrange(entropy, 'b h w -> b (h w)'), 1e-6)


def two_scale_scores(images_BxHxWx3: jax.Array, patch_size: int) -> jax.Array:
    """Mean of Sobel's scores of the image and of its means of 4 x 4 pixels: (B, L)."""
    small = reduce(images_BxHxWx3, 'b (h p) (w q) c -> b h w c', 'mean', p=4, q=4)
    fine, coarse = edge_scores(images_BxHxWx3, patch_size), edge_scores(small, patch_size // 4)
    return 0.5 * (fine + coarse)


def objects_of(name: str) -> Objects:
    """One of SETS."""
    emoji, photos = SETS[name]
    count = emoji.stop - emoji.start
    images, opacity, _ = objects_over_photographs(SIZE, count, first=emoji.start, photos=photos)
    return Objects(normalize_images(images), object_patches(opacity, PATCH))


def measure(objects: Objects, name: str, options: dict[str, Any], draws: int) -> dict[str, float]:
    """Shares in [0, 1]: object patches that stay, and starved patches of all and of objects."""
    select = jax.jit(
        functools.partial(known_strategies()[name], progress=0.0, patch_size=PATCH, **options)
    )
    tokens = jnp.zeros((*objects.patches.shape, 1))
    kept, seen = [], np.zeros(objects.patches.shape)
    for number in range(draws):
        selection = jax.device_get(select(jax.random.key(number), objects.images, tokens))
        kept.append(retention(selection, objects.patches))
        seen += visible_patches(selection, objects.patches.shape[1])
    rare = seen < RARELY * draws
    return {
        'kept': float(np.mean(kept)),
        'starved': float(rare.mean()),
        'starved objects': float(rare[objects.patches].mean()),
    }


def main(argv: list[str]) -> None:
    del argv
    EDGE_DETECTORS.update({'entropy': entropy_scores, 'two scales': two_scale_scores})
    sets = {name: objects_of(name) for name in SETS}
    keys = ('kept', 'starved', 'starved objects')
    lines = [['strategy', 'options', *(f'{key}, {name}' for name in SETS for key in keys)]]
    results = []
    for name, options in progress_bar(OPTION_TRIALS, 'Masking', ' trials', len(OPTION_TRIALS)):
        found = {of: measure(objects, name, options, DRAWS.value) for of, objects in sets.items()}
        results.append({'strategy': name, 'options': options, 'shares': found})
        shown = ', '.join(f'{k}={v}' for k, v in options.items() if k not in RATIOS)
        lines.append([name, shown, *(f'{found[of][key]:.1%}' for of in SETS for key in keys)])
    write_json(OUT.value, results)
    print(f'{markdown_table(lines)}Written: {OUT.value}')


if __name__ == '__main__':
    cli.run(main)
