"""Images per second of the training pipeline, beside decoding only and beside open_clip's loader.

  python -m benchmarks.input_pipeline [--images=2000] [--rounds=5] [--width=480]
      [--open_clip_python=PYTHON]

Makes tar shards of JPEGs from photographs, 480 x 360 or as wide as --width says, prepares them, and
then measures in turns: decoding in TensorFlow without anything else (the upper limit), this pipeline
(shuffled read, crop, antialiased bicubic resize to 224, tokens), and, with a Python that has
open_clip_torch, its webdataset loader with two workers on the same tars. With images of 1,000 pixels
and more the pipeline also runs with config.data.scaled_decode. benchmarks.prepare measures preparing.
"""

import itertools
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import common
from benchmarks.photo_tars import WIDTH as SMALL
from benchmarks.photo_tars import make_tars
from input_pipeline import pipeline, preparation, sources
from pgs.errors import UserError
from pgs.utils import cli

IMAGES = flags.DEFINE_integer('images', 2000, 'Images in the shards.', lower_bound=100)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of all measurements.', lower_bound=1)
WIDTH = flags.DEFINE_integer('width', SMALL, 'Of the images, pixels.', lower_bound=64)
OPEN_CLIP_PYTHON = flags.DEFINE_string(
    'open_clip_python',
    None,
    'Python with open_clip_torch and webdataset; without it open_clip is not measured.',
)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/input_pipeline.json', 'Path of the results.')

BATCH = 100
LARGE = 1000  # pixels of width from which on a crop is more than three times as high as a view

# Runs with the other Python: images per second of open_clip's own loader in one pass of the tars.
OPEN_CLIP_LOADER = """
import sys, time, types
import open_clip
from open_clip_train.data import get_wds_dataset
pattern, count = sys.argv[1], int(sys.argv[2])
args = types.SimpleNamespace(
    train_data=pattern, train_num_samples=count, train_data_upsampling_factors=None,
    val_data=None, val_num_samples=None, dataset_resampled=False, seed=0, workers=2,
    batch_size=100, world_size=1, distributed=False, rank=0)
transform = open_clip.image_transform(224, is_train=True)
info = get_wds_dataset(args, transform, True, tokenizer=open_clip.get_tokenizer('ViT-B-16'))
seen = 0
for images, texts in info.dataloader:
    if not seen:
        start, first = time.perf_counter(), len(images)
    seen += len(images)
print((seen - first) / (time.perf_counter() - start))
"""


def rate(batches: Iterator, per_batch: int) -> float:
    """Images per second of all batches but the first two."""
    next(batches)
    next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += per_batch
        end = time.perf_counter()  # not after the loop: tf.data can take a second to shut down
    return count / (end - start)


def decode_only(encoded: list[bytes]) -> float:
    """Images per second that TensorFlow decodes."""
    dataset = tf.data.Dataset.from_tensor_slices(encoded)
    dataset = dataset.map(lambda b: tf.shape(tf.io.decode_jpeg(b, channels=3)), tf.data.AUTOTUNE)
    return rate(dataset.batch(BATCH).as_numpy_iterator(), BATCH)


def our_pipeline(source: sources.Records, count: int, *, scaled: bool = False) -> float:
    """Images per second of the training pipeline, with config.data.scaled_decode or without."""
    batches = pipeline.train_batches(
        [(source, 1.0)],
        seed=0,
        batch_size=BATCH,
        start_step=0,
        total_steps=count // BATCH,
        image_size=224,
        context_length=77,
        crop_scale=(0.9, 1.0),
        scaled_decode=scaled,
    )
    return rate(batches, BATCH)


def open_clip_loader(python: str, pattern: str, count: int) -> float:
    """Images per second of open_clip's loader; UserError if it fails."""
    command = [python, '-c', OPEN_CLIP_LOADER, pattern, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"open_clip's loader failed with {python}:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure(
    count: int, rounds: int, python: str | None, width: int = SMALL
) -> dict[str, list[float]]:
    """Images per second of each measurement in each round.

    Args:
      count: number of images.
      rounds: number of rounds, in which the measurements take turns.
      python: has open_clip_torch; None: open_clip is not measured.
      width: of the images, pixels.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f'Making {count} images of {width} x {width * 3 // 4}', flush=True)
        pattern = make_tars(folder, count, width=width)
        preparation.prepare(pattern, str(folder / 'out'), workers=2)
        source = sources.open_folder(folder / 'out')
        encoded = [source[i]['image'] for i in range(len(source))]
        print(f'{np.mean([len(e) for e in encoded]) / 1000:.1f} kB an image')
        measurements: dict[str, Callable[[], float]] = {
            'decode_alone': lambda: decode_only(encoded),
            'pipeline': lambda: our_pipeline(source, count),
        }
        if width >= LARGE:
            measurements['pipeline_scaled'] = lambda: our_pipeline(source, count, scaled=True)
        if python:
            measurements['open_clip'] = lambda: open_clip_loader(python, pattern, count)
        rates: dict[str, list[float]] = {name: [] for name in measurements}
        for number in range(1, rounds + 1):
            for name, call in measurements.items():
                rates[name].append(call())
                print(f'round {number}/{rounds}  {name:<15} {rates[name][-1]:8.0f}/s', flush=True)
    return rates


def ratios_of(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios of measurements, round by round: median, smallest and largest."""
    pairs = [
        ('pipeline', 'decode_alone'),
        ('pipeline_scaled', 'decode_alone'),
        ('pipeline_scaled', 'pipeline'),
        ('pipeline', 'open_clip'),
    ]
    return {
        f'{name} / {other}': common.ratio(rates[name], rates[other])
        for name, other in pairs
        if name in rates and other in rates
    }


def main(argv: list[str]) -> None:
    del argv
    count = IMAGES.value // BATCH * BATCH
    rates = measure(count, ROUNDS.value, OPEN_CLIP_PYTHON.value, WIDTH.value)
    spreads, ratios = {name: common.spread(r) for name, r in rates.items()}, ratios_of(rates)
    print()
    for name, values in itertools.chain(spreads.items(), ratios.items()):
        digits = 2 if '/' in name else 0
        low, middle, high = (f'{values[k]:.{digits}f}' for k in ('min', 'median', 'max'))
        print(f'{name:<26} {middle:>7}  ({low} to {high})')
    result = {'machine': common.machine(), 'images': count, 'rates': rates, 'ratios': ratios}
    panels = {'images a second': {'': spreads}, 'ratio': {'': ratios}}
    common.write(OUT.value, result, panels)


if __name__ == '__main__':
    cli.run(main)
