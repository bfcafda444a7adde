"""Decoding, crops and resizing against PIL and torchvision's rules."""

import io

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from input_pipeline import images


def encode(array, kind='PNG'):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize('target', [(64, 64), (100, 180), (224, 224), (300, 260)])
def test_resize_is_pils_antialiased_bicubic(photos, target):
    image = photos[2]
    ours = images.resize_array(image, *target).astype(int)
    pil = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC))
    assert np.abs(ours - pil).mean() < 0.5
    assert np.abs(ours - pil).max() <= 3


def reference_box(height, width, scale, rng):
    """The published rule of torchvision's RandomResizedCrop: area, aspect ratio, ten attempts."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return h, w
    ratio = np.clip(width / height, 3 / 4, 4 / 3)
    return min(height, round(width / ratio)), min(width, round(height * ratio))


def draws(seed):
    return np.random.default_rng(seed).uniform(size=images.DRAWS).astype(np.float32)


@pytest.mark.parametrize(('height', 'width'), [(300, 400), (224, 224), (600, 300)])
@pytest.mark.parametrize('scale', [(0.9, 1.0), (0.3, 0.8)])
def test_crop_boxes_follow_torchvisions_rule(height, width, scale):
    box = tf.function(lambda u: images.crop_box(height, width, u, scale))
    top, left, h, w = np.array([box(draws(i)).numpy() for i in range(2000)]).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    rng = np.random.default_rng(0)
    reference = np.array([reference_box(height, width, scale, rng) for _ in range(5000)])
    for ours, theirs in ((h, reference[:, 0]), (w, reference[:, 1])):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.015)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.15, abs=0.5)
    if len(np.unique(top)) > 1:  # places are uniform
        assert (top / np.maximum(height - h, 1))[h < height].mean() == pytest.approx(0.5, abs=0.08)


def test_a_shape_without_a_fitting_crop_gets_the_centre():
    box = images.crop_box(10, 1000, draws(0), (0.9, 1.0))
    assert box.numpy().tolist() == [0, (1000 - 13) // 2, 10, 13]


def test_crop_is_a_function_of_its_draws(photos):
    encoded = encode(photos[0])
    view = lambda u: images.random_resized_crop(  # noqa: E731
        encoded, u, image_size=32, scale=(0.5, 1.0)
    ).numpy()
    np.testing.assert_array_equal(view(draws(1)), view(draws(1)))
    assert (view(draws(1)) != view(draws(2))).any()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_training_view_equals_pils_resize_of_the_same_crop(kind):
    """The recipe's figure: a mean difference below 1.5 of 255, on photographs at their own size."""
    for number, photo in enumerate(
        (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    ):
        encoded = encode(photo, kind)
        u = draws(number)
        ours = images.random_resized_crop(encoded, u, image_size=224, scale=(0.9, 1.0)).numpy()
        top, left, h, w = images.crop_box(*photo.shape[:2], u, (0.9, 1.0)).numpy().tolist()
        box = (left, top, left + w, top + h)
        whole = Image.open(io.BytesIO(encoded)).convert('RGB').crop(box)
        theirs = np.asarray(whole.resize((224, 224), Image.Resampling.BICUBIC))
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0


@pytest.mark.parametrize('size', [64, 224])
def test_evaluation_view_equals_pils_resize_and_centre_crop(size):
    for photo in (skimage.data.chelsea(), skimage.data.rocket()):
        ours = images.centre_crop(encode(photo, 'JPEG'), image_size=size).numpy()
        pil = Image.open(io.BytesIO(encode(photo, 'JPEG')))
        short = min(pil.size)
        pil = pil.resize([int(size * side / short) for side in pil.size], Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2.0) for side in pil.size)
        theirs = np.asarray(pil.crop((left, top, left + size, top + size)))
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0


@pytest.mark.parametrize('shape', [(60, 100), (100, 60), (64, 64), (1, 1), (3, 200)])
def test_centre_crop(shape):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    view = images.centre_crop(encode(array), image_size=32).numpy()
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8


def test_centre_crop_takes_the_centre():
    array = np.zeros((64, 128, 3), np.uint8)
    array[:, 32:96] = 200
    assert (images.centre_crop(encode(array), image_size=64).numpy() == 200).all()


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', '1'])
def test_any_png_becomes_rgb(mode):
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    assert images.decode(buffer.getvalue()).shape == (16, 16, 3)
