"""Another vendor's emoji: found by their code points, drawn where the data set has its own."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import load_benchmark as load

from input_pipeline import openmoji, scenes
from pgs.errors import UserError

other = load('other_emoji')
RED = (255, 0, 0, 255)


@pytest.fixture
def held_out():
    stems = [stem for stem, _ in openmoji.splits()['validation'][:3]]
    return [{'code_points': s.encode(), 'captions': [b'an emoji', s.encode()]} for s in stems]


@pytest.fixture
def folder(tmp_path, held_out):
    """A red square for two of the three emoji; one name has a variation selector more."""
    first, second, _ = (row['code_points'].decode().lower() for row in held_out)
    for name in (first, f'{second}-fe0f'):
        Image.new('RGBA', (16, 16), RED).save(tmp_path / f'{name}.png')
    return tmp_path


def pixels(record) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record['image']))).astype(int)


def test_a_picture_stands_where_the_data_set_has_its_emoji(held_out, folder):
    found = other.OtherEmoji(held_out, folder, 'openmoji_scenes')
    assert len(found) == 2  # the vendor lacks the third
    assert found[0]['captions'] == held_out[0]['captions']
    assert Path(found.location(1)).stem.endswith('-fe0f')
    stem = held_out[0]['code_points'].decode()
    image, alpha = scenes.scene(stem, 0, 'validation')
    shown = pixels(found[0])
    outside = np.asarray(scenes.scene(stem, 0, 'validation', red_square)[1])[..., 0] == 0
    assert np.abs(shown - image)[outside].mean() < 5  # the same background, but for JPEG
    is_object = alpha[..., 0] == 255
    assert np.median(shown[is_object], axis=0).tolist() == pytest.approx([255, 0, 0], abs=10)


def red_square(stem: str, size: int) -> np.ndarray:
    return np.full((size, size, 4), RED, np.uint8)


def test_over_white(held_out, folder):
    found = other.OtherEmoji(held_out, folder, 'openmoji')
    assert pixels(found[0]).shape == (96, 96, 3)
    assert np.median(pixels(found[0]), axis=(0, 1)).tolist() == pytest.approx([255, 0, 0], abs=10)


def test_folders_without_pictures_are_refused(held_out, tmp_path):
    with pytest.raises(UserError, match='has no PNG files: give a folder of emoji'):
        other.OtherEmoji(held_out, tmp_path / 'absent', 'openmoji')
    Image.new('RGBA', (16, 16), RED).save(tmp_path / '0023.png')
    with pytest.raises(UserError, match='has none of the 3 held-out emoji'):
        other.OtherEmoji(held_out, tmp_path, 'openmoji')
