"""The embedded data set `openmoji_scenes`: emoji at random scale and place over photographs.

The emoji, their names and their split are those of `openmoji`. The photographs are the five that
scikit-image ships. Training takes its backgrounds from the left two thirds of each photograph and
validation from the right third, so the two splits share no pixel of a background.

Every random number comes from a hash of the emoji's code points and the number of the scene.
Shapes: S is SCENE_SIZE, s the side of the rendered emoji.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from input_pipeline import openmoji
from input_pipeline.embedded import build_once
from input_pipeline.photographs import full_size
from input_pipeline.validate import JPEG_QUALITY

CREDIT = f'{openmoji.CREDIT}. Photographs: scikit-image'
SCENE_SIZE = 96  # pixels
EMOJI_SIDES = (48, 82)  # pixels: 0.5 to 0.85 of SCENE_SIZE
SCENES = {'train': 3, 'validation': 1}  # of each emoji
VALIDATION_REGION = 1 / 3  # of a photograph's width, on the right


def generator(stem: str, number: int) -> np.random.Generator:
    """The random numbers of scene `number` of an emoji; the same on every machine."""
    digest = hashlib.sha256(f'{stem}/{number}'.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], 'big'))


def draw(rng: np.random.Generator, low: int, high: int) -> int:
    """A uniform integer in [low, high]. NumPy may change Generator.integers between versions."""
    return low + int(rng.random() * (high - low + 1))


def background(photo_HxWx3: np.ndarray, split: str, rng: np.random.Generator) -> np.ndarray:
    """A random square crop of the split's part of a photograph, flipped in half of the cases.

    Both splits draw the side from the same range, from SCENE_SIZE to a third of the width.

    Args:
      photo_HxWx3: uint8; W at least 3 * SCENE_SIZE, H at least W / 3.
      split: 'train' or 'validation'.
      rng: source of the crop's side, place and flip.

    Returns:
      uint8 (S, S, 3).
    """
    width = photo_HxWx3.shape[1]
    largest = int(width * VALIDATION_REGION)
    edge = width - largest
    region = photo_HxWx3[:, :edge] if split == 'train' else photo_HxWx3[:, edge:]
    side = draw(rng, SCENE_SIZE, largest)
    top, left = (draw(rng, 0, room - side) for room in region.shape[:2])
    crop = Image.fromarray(np.ascontiguousarray(region[top : top + side, left : left + side]))
    # Pillow's resize of bytes computes in integers: no machine rounds differently.
    out = np.asarray(crop.resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BICUBIC))
    return out[:, ::-1] if rng.random() < 0.5 else out


def compose(
    rgba_sxsx4: np.ndarray, behind_SxSx3: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Puts an emoji at a random place over a background. The whole emoji stays inside.

    Emoji are never flipped: the name of an arrow or a pointing hand contains its direction.

    Args:
      rgba_sxsx4: uint8, the emoji with its opacity.
      behind_SxSx3: uint8.
      rng: source of the place.

    Returns:
      (image uint8 (S, S, 3), alpha uint8 (S, S, 1): the exact opacity of the emoji).
    """
    side, size = len(rgba_sxsx4), len(behind_SxSx3)
    top, left = draw(rng, 0, size - side), draw(rng, 0, size - side)
    canvas = np.zeros((size, size, 4), np.uint8)
    canvas[top : top + side, left : left + side] = rgba_sxsx4
    return openmoji.over(canvas, behind_SxSx3), canvas[..., 3:]


def scene(
    stem: str,
    number: int,
    split: str,
    render: Callable[[str, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scene `number` of an emoji: (image uint8 (S, S, 3), alpha uint8 (S, S, 1)).

    Args:
      stem: code points.
      number: from 0, of the scenes of this emoji.
      split: 'train' or 'validation'.
      render: (code points, side) -> uint8 RGBA (s, s, 4); None: OpenMoji's drawing.
    """
    rng = generator(stem, number)
    rgba = (render or openmoji.render)(stem, draw(rng, *EMOJI_SIDES))
    photos = full_size()
    behind = background(photos[draw(rng, 0, len(photos) - 1)], split, rng)
    return compose(rgba, behind, rng)


def jpeg(image_SxSx3: np.ndarray) -> bytes:
    """Encodes as `prepare` encodes images: JPEG of quality 95."""
    buffer = io.BytesIO()
    Image.fromarray(image_SxSx3).save(buffer, 'JPEG', quality=JPEG_QUALITY)
    return buffer.getvalue()


class OpenMojiScenes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder, so that the scenes are read in the same way as CC12M."""

    name = 'openmoji_scenes'
    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'OpenMoji 17 over photographs of scikit-image, 96 px.'}

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (SCENE_SIZE, SCENE_SIZE)
        return self.dataset_info_from_configs(
            description='Emoji of OpenMoji at random scale and place over crops of photographs, '
            'with their Unicode names as captions.',
            homepage='https://openmoji.org',
            license='CC BY-SA 4.0; the photographs are in the public domain or CC0',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(*shape, 3), encoding_format='jpeg'),
                    'alpha': tfds.features.Image(shape=(*shape, 1), encoding_format='png'),
                    'captions': tfds.features.Sequence(tfds.features.Text()),
                    'code_points': tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SCENES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        items = openmoji.splits()[split]
        for stem, name in tqdm.tqdm(items, desc=f'Rendering {split}', unit=' emoji'):
            for number in range(SCENES[split]):
                image, alpha = scene(stem, number, split)
                yield (
                    f'{stem}/{number}',
                    {
                        'image': jpeg(image),
                        'alpha': alpha,
                        'captions': openmoji.captions_for(name),
                        'code_points': stem,
                    },
                )


def prepare(cache_dir: str) -> tfds.core.DatasetBuilder:
    """Builds the data set in a cache folder unless it exists, see `build_once`."""
    return build_once(
        OpenMojiScenes, cache_dir, 'Rendering emoji over photographs (once, about a minute)'
    )
