"""Sizes, resizing and evaluation views against Pillow."""

import io
import threading

import corpus
import numpy as np
import pytest
import skimage.data
from PIL import Image

from input_pipeline import images, validate


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


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'WEBP', 'BMP'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'comment': b'x' * 5000}])
def test_size_by_the_header(photos, kind, options):
    options = options if kind == 'JPEG' else {}
    buffer = io.BytesIO()
    Image.fromarray(photos[0, :150, :201]).save(buffer, kind, **options)
    assert images.image_size(buffer.getvalue()) == (150, 201)


def test_size_of_no_image():
    for content in (b'', b'<html>', b'\xff\xd8', b'\xff\xd8\xff\xe0\x00\x10JFIF'):
        with pytest.raises(ValueError, match='not an image'):
            images.image_size(content)


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


def test_pillow_resizes_where_the_fast_package_is_missing(monkeypatch, capsys):
    photo = skimage.data.chelsea()
    fast = images.resize_array(photo, 48, 64)
    monkeypatch.setattr(images, 'cykooz_resizer', None)
    monkeypatch.setattr(images, 'noted', threading.Lock())
    slow = [images.resize_array(photo, 48, 64) for _ in range(2)][-1]
    assert capsys.readouterr().out.count('cykooz-resizer is not installed') == 1
    assert slow.shape == (48, 64, 3)
    # Both compute in integers, with other roundings.
    np.testing.assert_allclose(slow.astype(int), fast.astype(int), atol=1)


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


def test_only_image_formats_are_opened():
    """Pillow would start Ghostscript for PostScript, which is a program."""
    postscript = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n'
    assert Image.open(io.BytesIO(postscript)).format == 'EPS'
    with pytest.raises(ValueError, match='not a readable image'):
        images.centre_crop(postscript, image_size=32)
    with pytest.raises(ValueError, match='not an image'):
        images.image_size(postscript)
    with pytest.raises(validate.DropError, match='not_an_image'):
        validate.check_image(postscript)


def test_a_damaged_jpeg_that_tensorflow_refuses_is_encoded_again():
    """Pillow decodes it without its end mark, or with another marker within its only scan."""
    good = corpus.encoded(corpus.photo(1))
    progressive = corpus.encoded(corpus.photo(1), progressive=True)
    restarts = corpus.encoded(corpus.photo(1), restart_marker_blocks=2)
    for plain in (good, good + b'trailing', progressive, restarts):
        assert validate.check_image(plain).jpeg == plain
    middle = len(good) // 2
    for damaged in (good[:-2] + b'xx', good[:middle] + b'\xff\xec' + good[middle:]):
        try:
            kept = validate.check_image(damaged).jpeg
        except validate.DropError:
            continue
        assert kept != damaged
        assert validate.is_complete(kept)


def test_the_evaluation_view_of_bombs_and_lines():
    """A header of 12,000 x 10,000 pixels is refused; 1 x 20,000 pixels are not scaled up to 2 GB."""
    with pytest.raises(ValueError, match='12000 x 10000 pixels'):
        images.centre_crop(corpus.bomb_png(12_000, 10_000), image_size=32)
    line = np.zeros((1, 20_000, 3), np.uint8)
    line[:, 9_990:10_010] = 200
    view = images.centre_crop(encode(line), image_size=224)
    assert view.shape == (224, 224, 3)
    assert view.min() > 190
