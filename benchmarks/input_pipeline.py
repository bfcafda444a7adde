"""Images a second of the training pipeline, beside its floor and beside open_clip's loader.

  python -m benchmarks.input_pipeline [--images=2000] [--rounds=5] [--open_clip_python=PYTHON]

Makes tar shards of 480 x 360 JPEGs from real photographs, prepares them, and then measures in turns:
decoding alone in TensorFlow (the floor), this pipeline (shuffled read, crop, antialiased bicubic to
224, tokens), and, with a Python that has open_clip_torch, its webdataset loader with two workers on
the same tars. Prepare is measured beside plain tar reading with a validating decode.
"""

import io
import itertools
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
import tensorflow as tf
from absl import app, flags
from PIL import Image

from benchmarks import common
from input_pipeline import pipeline, prepare, sources
from input_pipeline.validate import check_image
from pgs.masking.object_retention import PHOTOGRAPHS

IMAGES = flags.DEFINE_integer('images', 2000, 'Images in the shards.', lower_bound=100)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each measurement.', lower_bound=1)
OPEN_CLIP_PYTHON = flags.DEFINE_string(
    'open_clip_python', None, 'Python with open_clip_torch and webdataset; left out where not set.'
)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/input_pipeline.json', 'Where the figures go.')

SIZE = (480, 360)
SHARDS = 4
BATCH = 100

# Runs under the other Python: images a second of open_clip's own loader over one pass of the tars.
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


def make_tars(folder: Path, count: int) -> str:
    """Tars of random 480 x 360 crops of photographs; returns their pattern."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    for shard in range(SHARDS):
        with tarfile.open(folder / f'{shard:05}.tar', 'w') as tar:
            for i in range(shard * count // SHARDS, (shard + 1) * count // SHARDS):
                photo = photographs[i % len(photographs)]
                scale = rng.uniform(0.75, 1.0)
                w = min(photo.width, photo.height * 4 / 3) * scale
                h = w * 3 / 4
                left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
                view = photo.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + w, top + h))
                buffer = io.BytesIO()
                view.save(buffer, 'JPEG', quality=90)
                files = (('jpg', buffer.getvalue()), ('txt', f'a photograph, number {i}'.encode()))
                for suffix, content in files:
                    member = tarfile.TarInfo(f'{i:09}.{suffix}')
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f'{folder}/{{00000..{SHARDS - 1:05}}}.tar'


def rate(batches, per_batch: int) -> float:
    """Images a second of all batches but the first two."""
    next(batches)
    next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += per_batch
        end = time.perf_counter()  # not after the loop: tf.data can take a second to wind up
    return count / (end - start)


def decode_alone(encoded: list[bytes]) -> float:
    dataset = tf.data.Dataset.from_tensor_slices(encoded)
    dataset = dataset.map(lambda b: tf.shape(tf.io.decode_jpeg(b, channels=3)), tf.data.AUTOTUNE)
    return rate(dataset.batch(BATCH).as_numpy_iterator(), BATCH)


def our_pipeline(source, count: int) -> float:
    batches = pipeline.train_batches(
        [(source, 1.0)],
        seed=0, batch_size=BATCH, start_step=0, total_steps=count // BATCH, image_size=224,
        context_length=77, crop_scale=(0.9, 1.0),
    )  # fmt: skip
    return rate(batches, BATCH)


def open_clip_loader(python: str, pattern: str, count: int) -> float:
    done = subprocess.run(
        [python, '-c', OPEN_CLIP_LOADER, pattern, str(count)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f'error: open_clip loader failed under {python}:\n{done.stderr[-2000:]}')
    return float(done.stdout.split()[-1])


def read_and_check(pattern: str) -> float:
    """Images a second of one process that reads tars and decodes to validate, and no more."""
    start, count = time.perf_counter(), 0
    for path in sorted(Path(pattern).parent.glob('*.tar')):
        with tarfile.open(path, 'r|') as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                if member.name.endswith('.jpg'):
                    check_image(content)
                    count += 1
    return count / (time.perf_counter() - start)


def prepare_once(pattern: str, out: Path) -> float:
    """Images a second of `prepare` with one process, its start left out."""
    shutil.rmtree(out, ignore_errors=True)
    (out / prepare.STATE).mkdir(parents=True)
    shards = prepare.raw_samples.find_shards(pattern)[0]
    start = time.perf_counter()
    kept = sum(
        prepare.prepare_shard(shard, i, len(shards), str(out), None)['kept']
        for i, shard in enumerate(shards)
    )
    return kept / (time.perf_counter() - start)


def main(argv):
    del argv
    count = IMAGES.value // BATCH * BATCH
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f'Making {count} images of {SIZE[0]} x {SIZE[1]}', flush=True)
        pattern = make_tars(folder, count)
        prepare.prepare(pattern, str(folder / 'out'), workers=2)
        source = sources.open_folder(folder / 'out')
        encoded = [source[i]['image'] for i in range(len(source))]
        print(f'{np.mean([len(e) for e in encoded]) / 1000:.1f} kB an image')
        measurements = {
            'decode_alone': lambda: decode_alone(encoded),
            'pipeline': lambda: our_pipeline(source, count),
            'read_and_check': lambda: read_and_check(pattern),
            'prepare': lambda: prepare_once(pattern, folder / 'again'),
        }
        if OPEN_CLIP_PYTHON.value:
            python = OPEN_CLIP_PYTHON.value
            measurements['open_clip'] = lambda: open_clip_loader(python, pattern, count)
        rates = {name: [] for name in measurements}
        for turn in range(ROUNDS.value):
            for name, measure in measurements.items():
                rates[name].append(measure())
                print(
                    f'round {turn + 1}/{ROUNDS.value}  {name:<15} {rates[name][-1]:8.0f}/s',
                    flush=True,
                )

    def ratio(name, other):
        return common.spread([a / b for a, b in zip(rates[name], rates[other], strict=True)])

    ratios = {
        'pipeline / decode_alone': ratio('pipeline', 'decode_alone'),
        'prepare / read_and_check': ratio('prepare', 'read_and_check'),
    }
    if OPEN_CLIP_PYTHON.value:
        ratios['pipeline / open_clip'] = ratio('pipeline', 'open_clip')
    print()
    spreads = {name: common.spread(r) for name, r in rates.items()}
    for name, figures in itertools.chain(spreads.items(), ratios.items()):
        digits = 2 if '/' in name else 0
        low, middle, high = (f'{figures[k]:.{digits}f}' for k in ('min', 'median', 'max'))
        print(f'{name:<26} {middle:>7}  ({low} to {high})')
    result = {'machine': common.machine(), 'images': count, 'rates': rates, 'ratios': ratios}
    panels = {'images a second': {'': spreads}, 'ratio': {'': ratios}}
    common.write(OUT.value, result, panels)


if __name__ == '__main__':
    app.run(main)
