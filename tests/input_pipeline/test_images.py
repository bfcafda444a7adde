"""Decoding, crops and resizing against PIL and torchvision's rules."""

import io

import numpy as np
import pytest
import skimage.data
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
    uniform = np.random.default_rng(1).uniform(size=(4000, images.DRAWS))
    boxes = images.crop_boxes(np.tile([height, width], (4000, 1)), uniform, scale)
    assert boxes.dtype == np.int32
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    rng = np.random.default_rng(0)
    reference = np.array([reference_box(height, width, scale, rng) for _ in range(5000)])
    for ours, theirs in ((h, reference[:, 0]), (w, reference[:, 1])):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.01)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.15, abs=0.5)
    if len(np.unique(top)) > 1:  # places are uniform
        assert (top / np.maximum(height - h, 1))[h < height].mean() == pytest.approx(0.5, abs=0.08)


def test_a_shape_without_a_fitting_crop_gets_the_centre():
    box = images.crop_boxes([[10, 1000]], draws(0)[None], (0.9, 1.0))[0]
    assert box.tolist() == [0, (1000 - 13) // 2, 10, 13]


def test_boxes_of_a_batch_are_those_of_its_images():
    sizes = [[300, 400], [64, 64], [10, 1000]]
    uniform = np.stack([draws(i) for i in range(3)])
    together = images.crop_boxes(sizes, uniform, (0.5, 1.0))
    alone = [
        images.crop_boxes([s], u[None], (0.5, 1.0))[0] for s, u in zip(sizes, uniform, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'WEBP', 'BMP'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'comment': b'x' * 5000}])
def test_size_by_the_header(photos, kind, options):
    options = options if kind == 'JPEG' else {}
    buffer = io.BytesIO()
    Image.fromarray(photos[0, :150, :201]).save(buffer, kind, **options)
    assert images.image_size(buffer.getvalue()) == (150, 201)


def test_size_of_no_image():
    for content in (b'', b'<html>', b'\xff\xd8', b'\xff\xd8\xff\xe0\x00\x10JFIF'):
        with pytest.raises(ValueError, match='no image'):
            images.image_size(content)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_training_view_equals_pils_resize_of_the_same_crop(kind):
    """The recipe's figure: a mean difference below 1.5 of 255, on photographs at their own size."""
    for number, photo in enumerate(
        (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    ):
        encoded = encode(photo, kind)
        box = images.crop_boxes([photo.shape[:2]], draws(number)[None], (0.9, 1.0))[0]
        ours = images.cropped([encoded], [box], image_size=224).numpy()[0]
        top, left, h, w = box.tolist()
        box = (left, top, left + w, top + h)
        whole = Image.open(io.BytesIO(encoded)).convert('RGB').crop(box)
        theirs = np.asarray(whole.resize((224, 224), Image.Resampling.BICUBIC))
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0


@pytest.mark.parametrize('size', [64, 224])
def test_evaluation_view_equals_pils_resize_and_centre_crop(size):
    for photo in (skimage.data.chelsea(), skimage.data.rocket()):
        ours = images.centre_crop(encode(photo, 'JPEG'), image_size=size)
        pil = Image.open(io.BytesIO(encode(photo, 'JPEG')))
        short = min(pil.size)
        pil = pil.resize([int(size * side / short) for side in pil.size], Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2.0) for side in pil.size)
        theirs = np.asarray(pil.crop((left, top, left + size, top + size)))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('shape', [(60, 100), (100, 60), (64, 64), (1, 1), (3, 200)])
def test_centre_crop(shape):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    view = images.centre_crop(encode(array), image_size=32)
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8


@pytest.mark.parametrize('kind', ['WEBP', 'GIF', 'BMP'])
def test_centre_crop_reads_what_pillow_reads(kind):
    array = np.full((40, 60, 3), 120, np.uint8)
    view = images.centre_crop(encode(array, kind), image_size=32)
    np.testing.assert_allclose(view, 120, atol=2)


@pytest.mark.parametrize('content', [b'', b'no image', encode(skimage.data.chelsea())[:9000]])
def test_centre_crop_refuses_what_is_no_image(content):
    with pytest.raises(ValueError, match='not a readable image'):
        images.centre_crop(content, image_size=32)


def test_centre_crop_takes_the_centre():
    array = np.zeros((64, 128, 3), np.uint8)
    array[:, 32:96] = 200
    assert (images.centre_crop(encode(array), image_size=64) == 200).all()


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', '1'])
def test_any_png_becomes_rgb(mode):
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    assert images.decode(buffer.getvalue()).shape == (16, 16, 3)
