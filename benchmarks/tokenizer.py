"""Processor time of the tokenizer beside that of the whole input pipeline.

  python -m benchmarks.tokenizer [--captions=20000] [--images=1000] [--rounds=5]

Measures in turns: `encode` caption by caption, as training does; `encode_batch`, as evaluation does;
and the training pipeline, which reads, decodes, crops, resizes and tokenises 480 x 360 JPEGs. Where
the package instant-clip-tokenizer is installed (it has no wheels for Python 3.13), it is measured in
the same turns, alone and within the pipeline, and its ids are compared with ours.
"""

import collections
import importlib.util
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import common
from input_pipeline import openmoji, pipeline, text_masking, tokenizer
from input_pipeline.photographs import full_size
from pgs.utils import cli

CAPTIONS = flags.DEFINE_integer('captions', 20_000, 'Captions to tokenise.', lower_bound=100)
IMAGES = flags.DEFINE_integer('images', 1000, 'Images of the pipeline.', lower_bound=200)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of all measurements.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/tokenizer.json', 'Path of the results.')

SIZE = (480, 360)
BATCH = 100
PASSES = 3  # of the images, in one measurement of the pipeline
WORDS = (5, 26)  # of a caption: at least, below


class Pairs(list):
    """Records in memory, as the pipeline reads them."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[i] for i in indices]


def make_captions(count: int) -> list[str]:
    """Captions of random words of emoji names, about as long as those of web images."""
    rng = np.random.default_rng(0)
    names = [name for split in openmoji.splits().values() for _, name in split]
    words = np.array(' '.join(names).split())
    return [' '.join(rng.choice(words, rng.integers(*WORDS))) for _ in range(count)]


def make_pairs(captions: list[str]) -> Pairs:
    """A random 480 x 360 crop of a photograph, as JPEG, for each caption."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image).resize((720, 540)) for image in full_size()]
    pairs = Pairs()
    for number, caption in enumerate(captions):
        left, top = rng.integers(0, 240), rng.integers(0, 180)
        view = photographs[number % len(photographs)].crop(
            (left, top, left + SIZE[0], top + SIZE[1])
        )
        buffer = io.BytesIO()
        view.save(buffer, 'JPEG', quality=90)
        pairs.append({'image': buffer.getvalue(), 'captions': [caption.encode()]})
    return pairs


def processor_time(call: Callable[[], int]) -> float:
    """Microseconds of processor time, of all threads, for each of the items that a call returns."""
    start = time.process_time()
    count = call()
    return (time.process_time() - start) / count * 1e6


def run_pipeline(pairs: Pairs, mask_text: text_masking.TextMask) -> int:
    """Makes the batches of PASSES passes; returns the number of images."""
    steps = PASSES * (len(pairs) // BATCH)
    batches = pipeline.train_batches(
        [(pairs, 1.0)],
        seed=0,
        batch_size=BATCH,
        start_step=0,
        total_steps=steps,
        image_size=224,
        context_length=tokenizer.CONTEXT_LENGTH,
        crop_scale=(0.9, 1.0),
        mask_text=mask_text,
    )
    collections.deque(batches, maxlen=0)
    return steps * BATCH


def other_encode() -> Callable[[str], list[int]] | None:
    """`encode` with instant-clip-tokenizer; None if it is not installed."""
    if importlib.util.find_spec('instant_clip_tokenizer') is None:
        return None
    import instant_clip_tokenizer

    model = instant_clip_tokenizer.Tokenizer()
    return lambda text: model.encode(tokenizer.clean(text))


def measure(captions: list[str], images: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of processor time for a caption or an image, in each round."""
    pairs = make_pairs(captions[:images])

    def one_by_one(encode: Callable[[str], list[int]]) -> int:
        return len([encode(text) for text in captions])

    measurements: dict[str, Callable[[], int]] = {
        'encode': lambda: one_by_one(tokenizer.encode),
        'encode_batch': lambda: len(tokenizer.encode_batch(captions)),
        'pipeline': lambda: run_pipeline(pairs, text_masking.truncate),
    }
    other = other_encode()
    if other:
        same = sum(tokenizer.encode(text) == other(text) for text in captions)
        print(f"instant-clip-tokenizer's ids are ours for {same} of {len(captions)} captions")
        measurements['instant encode'] = lambda: one_by_one(other)
        measurements['instant pipeline'] = lambda: run_pipeline(
            pairs, lambda caption, length, seed: other(caption)[:length]
        )
    for call in measurements.values():  # the first calls build tables and start threads
        call()
    times: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(1, rounds + 1):
        for name, call in measurements.items():
            times[name].append(processor_time(call))
            print(f'round {number}/{rounds}  {name:<16} {times[name][-1]:8.1f} us', flush=True)
    return times


def main(argv: list[str]) -> None:
    del argv
    captions = make_captions(max(CAPTIONS.value, IMAGES.value))
    times = measure(captions, IMAGES.value, ROUNDS.value)
    ratios = {'encode / pipeline': common.ratio(times['encode'], times['pipeline'])}
    if 'instant pipeline' in times:
        ratios['pipeline / instant pipeline'] = common.ratio(
            times['pipeline'], times['instant pipeline']
        )
    spreads = {name: common.spread(values) for name, values in times.items()}
    print()
    for name, values in (spreads | ratios).items():
        print(common.spread_line(name, values, digits=3 if '/' in name else 1))
    result = {'machine': common.machine(), 'microseconds': times, 'ratios': ratios}
    panels = {'processor time, us': {'': spreads}, 'ratio': {'': ratios}}
    common.write(OUT.value, result, panels)


if __name__ == '__main__':
    cli.run(main)
