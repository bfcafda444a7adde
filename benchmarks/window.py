"""Images per second of the window shuffle beside the full one, on the same local files.

  python -m benchmarks.window [--images=6000] [--rounds=5] [--dir=FOLDER]

Makes shards of 480 x 360 JPEGs from photographs, or reads --dir, and measures in turns: the full
shuffle (random access), the window shuffle on the same files, and the window shuffle through copies
of the shards, as from a bucket but without its network. Each round also takes the seconds from
nothing to the first batch of a step in the middle of epoch 30, and the memory of the process.
"""

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.photo_tars import make_tars
from configs import base
from input_pipeline import preparation
from pgs.run.data import open_data, training_batches
from pgs.utils import cli

IMAGES = flags.DEFINE_integer('images', 6000, 'Images in the shards.', lower_bound=1000)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of all measurements.', lower_bound=1)
DIR = flags.DEFINE_string('dir', None, 'A prepared folder; by default one is made.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/window.json', 'Path of the results.')

SHARDS = 24
BATCH = 100
STREAMS = 4
VARIANTS = ('full', 'window', 'window, copied')
Measured = dict[str, list[float]]


def variant(name: str, folder: Path, copies: Path, steps: int) -> ConfigDict:
    """The config of one of VARIANTS."""
    config = base.get_config()
    config.update(batch_size=BATCH, total_steps=steps)
    config.data.update(name='pairs', dir=str(folder), shuffle=name.split(',')[0])
    config.data.update(window_streams=STREAMS, window_shards=2)
    config.data.window_cache = str(copies) if name.endswith('copied') else ''
    return config


def rate(config: ConfigDict) -> float:
    """Images per second of a pass over the data, but for its first two batches."""
    data = open_data(config)
    batches = training_batches(config, data, 0, np.arange(BATCH))
    for _ in itertools.islice(batches, 2):
        pass
    start = end = time.perf_counter()
    count = 0
    for _ in batches:
        count += BATCH
        end = time.perf_counter()  # not after the loop: tf.data can take a second to shut down
    if data.cache is not None:
        data.cache.close()
    return count / (end - start)


def seconds_to_first(config: ConfigDict, step: int) -> float:
    """Seconds from opening the data to the first batch of a step."""
    config = config.copy_and_resolve_references()
    config.total_steps = step + 2
    start = time.perf_counter()
    data = open_data(config)
    batches = training_batches(config, data, step, np.arange(BATCH))
    next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    if data.cache is not None:
        data.cache.close()
    return seconds


def memory() -> float:
    """MiB of this process's memory."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmRSS'):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(folder: Path, copies: Path, rounds: int) -> tuple[Measured, Measured, Measured]:
    """(images per second, seconds to the first batch, MiB afterwards) of each variant and round.

    Args:
      folder: of the data set.
      copies: of the copies of its shards.
      rounds: number of rounds, in which the variants take turns.
    """
    pairs = open_data(variant('full', folder, copies, 1)).pairs
    steps = pairs // BATCH
    rates, firsts, sizes = ({name: [] for name in VARIANTS} for _ in range(3))
    for number in range(1, rounds + 1):
        for name in VARIANTS[number % 2 :] + VARIANTS[: number % 2]:  # none is always the first
            config = variant(name, folder, copies, steps)
            rates[name].append(rate(config))
            firsts[name].append(seconds_to_first(config, 30 * steps + steps // 2))
            sizes[name].append(memory())
            print(
                f'round {number}/{rounds}  {name:<15} {rates[name][-1]:8.0f}/s  '
                f'first batch {firsts[name][-1]:5.2f} s  {sizes[name][-1]:6.0f} MiB',
                flush=True,
            )
    return rates, firsts, sizes


def main(argv: list[str]) -> None:
    del argv
    temporary = Path(tempfile.mkdtemp())
    try:
        folder = Path(DIR.value or temporary / 'data').expanduser()
        if DIR.value is None:
            print(f'Making {IMAGES.value} images', flush=True)
            pattern = make_tars(temporary, IMAGES.value, SHARDS)
            preparation.prepare(pattern, str(folder), workers=2)
        rates, firsts, sizes = measure(folder, temporary / 'copies', ROUNDS.value)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    ratios = {f'{name} / full': common.ratio(rates[name], rates['full']) for name in VARIANTS[1:]}
    spreads = {name: common.spread(values) for name, values in rates.items()}
    print()
    for name, values in (spreads | ratios).items():
        print(common.spread_line(name, values, digits=2 if '/' in name else 0))
    result = {
        'machine': common.machine(),
        'rates': rates,
        'ratios': ratios,
        'seconds_to_first_batch': firsts,
        'mebibytes': sizes,
    }
    common.write(OUT.value, result, {'images a second': {'': spreads}, 'ratio': {'': ratios}})


if __name__ == '__main__':
    cli.run(main)
