"""Measures how many images a second python -m pgs.embed embeds, whole and masked.

  python -m benchmarks.masked_inference [--variants=none,pgs-0.3,pgs-0.5] [--images=24] [--rounds=3]
      [--out=FILE.json]

A ViT-B/16 with random weights embeds JPEG files of scikit-image's photographs: read, decoded,
resized to 224 pixels and embedded, as with --masking=none or with a strategy. The variants take
turns in every round, and ratios are taken round by round. Compilation is not counted.
"""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import common
from benchmarks.plots import Spread
from input_pipeline.photographs import full_size
from pgs.convert import Checkpoint
from pgs.errors import UserError
from pgs.inference import embed_images
from pgs.inference.clip import on_all_devices
from pgs.inference.embedding import Embedder
from pgs.inference.masking import scoring_mask
from pgs.models import build_model
from pgs.utils import cli

NAMES = flags.DEFINE_list('variants', ['none', 'pgs-0.3', 'pgs-0.5'], 'Of common.VARIANTS.')
IMAGES = flags.DEFINE_integer('images', 24, 'Images of a round.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds.', lower_bound=1)
BATCH = flags.DEFINE_integer('batch_size', 8, 'Images that are embedded at once.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/masked_inference.json', 'Path of the results.')


def photograph_files(folder: str, count: int) -> list[Path]:
    """JPEG files of the photographs, at their own size."""
    photographs = full_size()
    paths = [Path(folder) / f'{i:05}.jpg' for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(photographs[i % len(photographs)]).save(path, quality=90)
    return paths


def random_weights(settings: ConfigDict) -> Checkpoint:
    """The model of config.model with random weights."""
    model = build_model(settings, dtype=jnp.float32)
    size, length = settings.image.image_size, settings.text.context_length
    images, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, length), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), images, tokens)['params']
    return Checkpoint(model, params, settings.to_dict(), 'random weights')


def embedders(names: list[str], batch_size: int) -> dict[str, Embedder]:
    """Name of a variant -> the same model with its mask."""
    configs = {name: common.variant_config(name, batch_size) for name in names}
    loaded = random_weights(configs[names[0]].model)
    return {
        name: on_all_devices(loaded, batch_size, scoring_mask(config.masking, loaded.model.image))
        for name, config in configs.items()
    }


def measure(models: dict[str, Embedder], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of every embedder in every round."""
    rates: dict[str, list[float]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory() as folder:
        paths = photograph_files(folder, count)
        for clip in models.values():
            embed_images(clip, paths[:1])  # compiles
        for turn in range(rounds):
            for name, clip in models.items():
                seconds = common.timed(functools.partial(embed_images, clip, paths))
                rates[name].append(count / seconds)
            print(f'round {turn + 1} of {rounds}', flush=True)
    return rates


def main(argv: list[str]) -> None:
    del argv
    if not NAMES.value:
        raise UserError(f'--variants is empty: take some of {", ".join(common.VARIANTS)}')
    rates = measure(embedders(NAMES.value, BATCH.value), IMAGES.value, ROUNDS.value)
    first = NAMES.value[0]
    ratios = {n: [r / f for r, f in zip(v, rates[first], strict=True)] for n, v in rates.items()}
    print(common.table(['mask', 'images/s', f'ratio to {first}'], rows(rates, ratios)))
    result = {
        'machine': common.machine(),
        'images': IMAGES.value,
        'batch_size': BATCH.value,
        'images_per_second': rates,
        'ratios': ratios,
    }
    panels = {'images a second': spreads(rates), f'ratio to {first}': spreads(ratios)}
    common.write(OUT.value, result, panels)


def rows(rates: dict[str, list[float]], ratios: dict[str, list[float]]) -> list[list[str]]:
    """Median, smallest and largest value of every variant."""

    def cell(values: list[float]) -> str:
        s = common.spread(values)
        return f'{s["median"]:.2f} ({s["min"]:.2f} to {s["max"]:.2f})'

    return [[name, cell(rates[name]), cell(ratios[name])] for name in rates]


def spreads(values: dict[str, list[float]]) -> dict[str, dict[str, Spread]]:
    """The bars of one panel."""
    return {'': {name: common.spread(v) for name, v in values.items()}}


if __name__ == '__main__':
    cli.run(main)
