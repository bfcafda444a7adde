"""How much of a known object PGS keeps, on OpenMoji images over photographs."""

import functools

import jax
import numpy as np
import pytest

from pgs.masking import known_strategies
from pgs.masking import object_retention as retention_of
from pgs.masking.selection import PatchSelection
from pgs.models import normalize_images
from pgs.run.masks import objects_over_photographs


@pytest.fixture(scope='module')
def objects():
    images, opacity, _ = objects_over_photographs(224, 200)
    return np.asarray(normalize_images(images)), retention_of.object_patches(opacity, 16)


def retention(objects, name, **options):
    images, patches = objects
    tokens = np.zeros((len(images), 196, 4), np.float32)
    select = jax.jit(functools.partial(known_strategies()[name], patch_size=16, **options))
    return np.mean(
        [
            retention_of.retention(select(jax.random.key(k), images, tokens, 0.0), patches)
            for k in range(3)
        ]
    )


def test_pgs_keeps_the_object_where_random_keeps_half(objects):
    pgs = retention(objects, 'pgs', min_ratio=0.5, max_ratio=0.5)
    random = retention(objects, 'random', mask_ratio=0.5)
    print(f'object retention at one half masked: PGS-0.5 {pgs:.3f}, random {random:.3f}')
    assert pgs >= 0.72
    assert random == pytest.approx(0.5, abs=0.01)
    # Noise against starvation costs little of it.
    assert retention(objects, 'pgs', min_ratio=0.5, selection_noise=0.5) > pgs - 0.01
    # Each of the two parts of the method counts.
    assert retention(objects, 'pgs', min_ratio=0.5, use_edges=False) < pgs - 0.05


def test_background_keeps_more_of_objects_than_pgs(objects):
    """Its options were chosen on other emoji, over two of these five photographs."""
    share = retention(objects, 'background', selection_noise=1.0)
    print(f'object retention at one half masked: background {share:.3f}')
    assert share >= 0.85


def test_retention_by_hand():
    keep = np.array([[0, 1, 3], [1, 2, 3]], np.int32)
    valid = np.array([[True, True, False], [True, True, True]])
    patches = np.array([[True, False, False, True], [False, True, True, False]])
    # first image sees 0 and 1, so 1 of its 2; second sees 1, 2 and 3, so 2 of 2
    assert retention_of.retention(PatchSelection(keep, valid), patches) == 0.75
    assert retention_of.retention(PatchSelection(keep, None), patches) == 1.0


def test_images_without_an_object_do_not_count():
    keep = np.array([[0], [0]], np.int32)
    patches = np.array([[True, True], [False, False]])
    assert retention_of.retention(PatchSelection(keep, None), patches) == 0.5


def test_object_over_a_photograph_is_the_blend_of_both():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (1, 8, 8, 3))
    opacity = rng.integers(0, 256, (1, 8, 8)).astype(np.uint8)
    photo = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    share = opacity[..., None] / 255
    white = np.round(colour * share + 255 * (1 - share)).astype(np.uint8)
    expected = colour * share + photo[:1] * (1 - share)
    mixed = retention_of.over_photographs(white, opacity, photo)
    assert np.abs(mixed - expected).max() <= 1.01
