"""Training views against Pillow and torchvision's rules."""

import io
import itertools

import numpy as np
import pytest
import skimage.data
from PIL import Image

from input_pipeline import crops, images


def encode(array, kind='PNG'):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


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
    return np.random.default_rng(seed).uniform(size=crops.DRAWS).astype(np.float32)


@pytest.mark.parametrize(('height', 'width'), [(300, 400), (224, 224), (600, 300)])
@pytest.mark.parametrize('scale', [(0.9, 1.0), (0.3, 0.8)])
def test_crop_boxes_follow_torchvisions_rule(height, width, scale):
    uniform = np.random.default_rng(1).uniform(size=(4000, crops.DRAWS))
    boxes = crops.crop_boxes(np.tile([height, width], (4000, 1)), uniform, scale)
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
    if len(np.unique(top)) > 1:  # positions are uniform
        assert (top / np.maximum(height - h, 1))[h < height].mean() == pytest.approx(0.5, abs=0.08)


def test_a_shape_without_a_fitting_crop_gets_the_centre():
    box = crops.crop_boxes([[10, 1000]], draws(0)[None], (0.9, 1.0))[0]
    assert box.tolist() == [0, (1000 - 13) // 2, 10, 13]


def test_boxes_of_a_batch_are_those_of_its_images():
    sizes = [[300, 400], [64, 64], [10, 1000]]
    uniform = np.stack([draws(i) for i in range(3)])
    together = crops.crop_boxes(sizes, uniform, (0.5, 1.0))
    alone = [
        crops.crop_boxes([s], u[None], (0.5, 1.0))[0] for s, u in zip(sizes, uniform, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_training_view_equals_pils_resize_of_the_same_crop(kind):
    """The recipe requires a mean difference below 1.5 of 255, on photographs of full size."""
    for number, photo in enumerate(
        (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    ):
        encoded = encode(photo, kind)
        box = crops.crop_boxes([photo.shape[:2]], draws(number)[None], (0.9, 1.0))[0]
        ours = crops.cropped([encoded], [box], image_size=224).numpy()[0]
        top, left, h, w = box.tolist()
        box = (left, top, left + w, top + h)
        crop = Image.open(io.BytesIO(encoded)).convert('RGB').crop(box)
        theirs = np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC))
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', '1'])
def test_any_png_becomes_rgb(mode):
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    assert crops.decode(buffer.getvalue()).shape == (16, 16, 3)


@pytest.mark.parametrize('resizer', ['cykooz', 'Pillow'])
def test_a_scaled_decode_stays_near_pils_resize(resizer, monkeypatch):
    """Within 1.5 of 255 on the mean, as any training view; other formats and small boxes as before."""
    if resizer == 'Pillow':
        monkeypatch.setattr(images, 'cykooz_resizer', None)
    for number, (photo, size) in enumerate(
        itertools.product(
            (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.immunohistochemistry()),
            (75, 110, 175),
        )
    ):
        box = crops.crop_boxes([photo.shape[:2]], draws(number)[None], (0.9, 1.0))[0]
        top, left, h, w = box.tolist()
        corners = (left, top, left + w, top + h)
        for kind in ('JPEG', 'PNG'):
            encoded = encode(photo, kind)
            whole, scaled = (
                crops.cropped([encoded], [box], image_size=size, scaled=scaled).numpy()[0]
                for scaled in (False, True)
            )
            crop = Image.open(io.BytesIO(encoded)).convert('RGB').crop(corners)
            theirs = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
            assert np.abs(scaled.astype(int) - theirs).mean() < 1.5
            is_scaled = kind == 'JPEG' and size < 175  # 512 pixels are 2.9 times 175
            assert (whole == scaled).all() == (not is_scaled)


def test_the_box_of_a_scaled_decode_is_where_it_was():
    """In a ramp a view's value is its place: half a pixel of the photograph is 0.1 of 255 here."""
    ramp = np.linspace(0, 255, 1203)[None, :, None] * np.ones((1001, 1, 3))
    encoded = encode(np.rint(ramp).astype(np.uint8), 'JPEG')
    boxes = [[13, 101, 907, 983], [94, 7, 901, 1011], [0, 0, 1001, 1203]]
    views = crops.cropped([encoded] * 3, boxes, image_size=64, scaled=True).numpy().astype(float)
    for view, (_, left, _, width) in zip(views, boxes, strict=True):
        centres = left + (np.arange(64) + 0.5) * width / 64 - 0.5
        error = view.mean(axis=(0, 2)) - centres * 255 / 1202
        assert np.abs(error[2:-2]).max() < 1.0
        assert abs(error[2:-2].mean()) < 0.1
