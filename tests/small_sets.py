"""Writes small evaluation sets of real images, without a download.

  python -m tests.small_sets DATA      then  python -m pgs.evaluate --data_root=DATA --tasks=...

In CLIP-benchmark's layout: `digits` of scikit-learn, with train and test (zeroshot/digits,
linear_probe/digits); `openmoji_names`, one emoji per class; `openmoji_pairs`, emoji with two or
three captions each (retrieval/openmoji_pairs); `openmoji_tones`, multilabel, two emoji per image.
In SugarCrepe's layout: sugar_crepe/swap_att.json, where a negative caption has another skin tone.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from input_pipeline import openmoji
from input_pipeline.webdataset import write_eval_set

NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
TONES = tuple(f'{t} skin tone' for t in ('light', 'dark', 'medium-light', 'medium', 'medium-dark'))


def encoded(image_HxWx3: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HxWx3).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def emoji(count: int) -> list[tuple[np.ndarray, str]]:
    """(uint8 (64, 64, 3), name) of the first held-out emoji by hash."""
    items = sorted(openmoji.splits()['validation'], key=openmoji.item_hash)[:count]
    return [(openmoji.over_white(openmoji.render(stem, 64)), name) for stem, name in items]


def write_digits(root: Path, train: int = 1000, test: int = 797) -> None:
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    big = np.repeat(np.repeat(pixels, 8, axis=1), 8, axis=2)
    samples = [
        (encoded(np.stack([image] * 3, axis=-1), 'PNG'), int(label))
        for image, label in zip(big, digits.target, strict=True)
    ]
    names = {'classnames': NUMBERS, 'templates': ('a photo of the number {c}.', 'the digit {c}')}
    parts = {'train': samples[:train], 'test': samples[train : train + test]}
    for split, part in parts.items():
        write_eval_set(root / 'digits', split, part, kind='classification', **names)


def write_emoji(root: Path, count: int = 100) -> None:
    items = emoji(count)
    names = [name for _, name in items]
    samples = [(encoded(image, 'WEBP'), label) for label, (image, _) in enumerate(items)]
    write_eval_set(
        root / 'openmoji_names',
        'test',
        samples,
        kind='classification',
        classnames=names,
        templates=('{c}', 'an emoji of {c}'),
    )
    templates = ('{}', 'an emoji of {}', 'a drawing of {}')
    pairs = [
        (encoded(image, 'WEBP'), [t.format(name) for t in templates[: 2 + number % 2]])
        for number, (image, name) in enumerate(items)
    ]
    write_eval_set(root / 'openmoji_pairs', 'test', pairs, kind='retrieval')

    two = []
    for (left, first), (right, second) in zip(items[::2], items[1::2], strict=True):
        label = np.array([f' {tone}' in f'{first} {second}' for tone in TONES], np.int64)
        two.append((encoded(np.concatenate([left, right], axis=1), 'PNG'), label))
    write_eval_set(
        root / 'openmoji_tones',
        'test',
        two,
        kind='multilabel',
        classnames=TONES,
        templates=('a person, {c}',),
    )

    folder = root / 'sugar_crepe'
    (folder / 'val2017').mkdir(parents=True, exist_ok=True)
    entries = {}
    for number, (image, name) in enumerate(items):
        own = next((tone for tone in TONES[:2] if f' {tone}' in name), None)
        if own is None:
            continue
        other = TONES[1 - TONES.index(own)]
        (folder / 'val2017' / f'{number}.png').write_bytes(encoded(image, 'PNG'))
        entries[str(number)] = {
            'filename': f'{number}.png',
            'caption': name,
            'negative_caption': name.replace(own, other),
        }
    (folder / 'swap_att.json').write_text(json.dumps(entries))


def write_all(root: str | Path) -> None:
    write_digits(Path(root))
    write_emoji(Path(root))


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_all(sys.argv[1])
    print(f'Written: {sys.argv[1]}')
