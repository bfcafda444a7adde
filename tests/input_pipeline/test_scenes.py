"""The embedded scenes: split, determinism, exact masks, backgrounds, bounds and records."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import base
from input_pipeline import openmoji, scenes, sources
from input_pipeline.photographs import full_size
from pgs.errors import UserError

FROG, ARROW = '1F438', '2B05'


def data_config(cache_dir):
    data = base.get_config().data
    data.update(name='openmoji_scenes', cache_dir=str(cache_dir))
    return data


@pytest.fixture(scope='module')
def small_build(tmp_path_factory):
    """A cache folder with the scenes of five emoji of each split."""
    folder = tmp_path_factory.mktemp('cache')
    items = {split: pairs[:5] for split, pairs in openmoji.splits().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openmoji, 'splits', lambda: items)
        scenes.prepare(str(folder))
    return folder


def test_the_split_is_openmojis(small_build):
    """Three training scenes of each training emoji and one of each held-out emoji."""
    data = data_config(small_build)
    ((train, _),) = sources.open_train(data)
    held_out = sources.open_held_out(data)
    splits = openmoji.splits()
    stems = [stem for stem, _ in splits['train'][:5]]
    trained = [train[i]['code_points'].decode() for i in range(len(train))]
    assert sorted(trained) == sorted(3 * stems)
    stems = [stem for stem, _ in splits['validation'][:5]]
    assert sorted(held_out[i]['code_points'].decode() for i in range(len(held_out))) == stems
    # The numbers of the complete set.
    counts = {split: scenes.SCENES[split] * len(items) for split, items in splits.items()}
    assert counts == {'train': 10_587, 'validation': 424}


def test_records_hold_the_scenes(small_build):
    ((source, _),) = sources.open_train(data_config(small_build))
    records = [source[i] for i in range(len(source))]
    names = dict(openmoji.splits()['train'])
    for record in records:
        stem = record['code_points'].decode()
        assert sources.captions_of(record) == [t.format(names[stem]) for t in openmoji.TEMPLATES]
    first = [r for r in records if r['code_points'].decode() == openmoji.splits()['train'][0][0]]
    stored = {}
    for record in first:
        image = np.asarray(Image.open(io.BytesIO(record['image'])))
        alpha = np.asarray(Image.open(io.BytesIO(record['alpha'])))
        stored[alpha.tobytes()] = image
    for number in range(3):
        image, alpha = scenes.scene(openmoji.splits()['train'][0][0], number, 'train')
        difference = np.abs(stored[alpha.tobytes()].astype(int) - image)  # alpha: exactly the same
        assert difference.mean() < 4.0  # JPEG, of 255


def test_building_is_atomic_and_happens_once(small_build, tmp_path, monkeypatch):
    monkeypatch.setattr(openmoji, 'render', None)
    assert scenes.prepare(str(small_build)).is_prepared()  # an existing set is opened
    with pytest.raises(TypeError):
        scenes.prepare(str(tmp_path))
    assert not (tmp_path / 'openmoji_scenes' / '1.0.0').exists()  # nothing that looks prepared


def test_scenes_are_fixed():
    """The pixels do not depend on order or global random state; the numbers are those of release 1.0.0."""
    image, alpha = scenes.scene(FROG, 0, 'train')
    np.random.seed(1)  # noqa: NPY002  # global state must not matter
    other, _ = scenes.scene(FROG, 1, 'train')
    again, alpha_again = scenes.scene(FROG, 0, 'train')
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(alpha, alpha_again)
    assert scenes.jpeg(image) == scenes.jpeg(again)
    assert (image != other).mean() > 0.5
    rng = scenes.generator(FROG, 0)
    assert [scenes.draw(rng, 0, 999) for _ in range(4)] == [255, 288, 29, 730]


def test_alpha_is_the_exact_mask():
    rng = np.random.default_rng(0)
    rgba = openmoji.render(FROG, 60)
    behind = rng.integers(0, 256, (96, 96, 3), np.uint8)
    image, alpha = scenes.compose(rgba, behind, rng)
    assert image.dtype == alpha.dtype == np.uint8
    assert alpha.shape == (96, 96, 1)
    np.testing.assert_array_equal(image[alpha[..., 0] == 0], behind[alpha[..., 0] == 0])
    rows, columns = np.nonzero(alpha[..., 0])
    emoji_rows, emoji_columns = np.nonzero(rgba[..., 3])
    top, left = rows.min() - emoji_rows.min(), columns.min() - emoji_columns.min()
    inside = (slice(top, top + 60), slice(left, left + 60))
    np.testing.assert_array_equal(alpha[inside][..., 0], rgba[..., 3])
    assert alpha.sum(dtype=int) == rgba[..., 3].sum(dtype=int)  # nothing outside
    np.testing.assert_array_equal(image[inside], openmoji.over(rgba, behind[inside]))
    solid = rgba[..., 3] == 255
    np.testing.assert_array_equal(image[inside][solid], rgba[solid, :3])


def test_the_splits_share_no_pixel_of_a_background():
    """The right third of this picture is blue, and only validation sees it."""
    photo = np.zeros((300, 450, 3), np.uint8)
    photo[:, :300, 0] = photo[:, 300:, 2] = 200
    for number in range(50):
        train = scenes.background(photo, 'train', scenes.generator(FROG, number))
        held_out = scenes.background(photo, 'validation', scenes.generator(FROG, number))
        assert (train == (200, 0, 0)).all()
        assert (held_out == (0, 0, 200)).all()


def test_backgrounds_are_crops_of_random_size_some_flipped():
    """On a ramp, the slope of a crop gives its side and its flip."""
    ramp = np.broadcast_to(np.linspace(0, 255, 600)[:, None], (400, 600, 3)).astype(np.uint8)
    crops = [scenes.background(ramp, 'train', scenes.generator(FROG, n)) for n in range(100)]
    slopes = np.array([float(c[48, -1, 0]) - float(c[48, 0, 0]) for c in crops])
    assert 25 < (slopes < 0).sum() < 75
    sides = np.abs(slopes) * 600 / 255
    assert 85 <= sides.min() < 110
    assert 185 < sides.max() <= 210


@pytest.mark.parametrize('photo', full_size(), ids=str)
def test_every_photograph_has_room_for_both_splits(photo):
    assert int(photo.shape[1] * scenes.VALIDATION_REGION) >= scenes.SCENE_SIZE
    assert photo.shape[0] >= photo.shape[1] * scenes.VALIDATION_REGION


def test_scale_and_place_stay_in_bounds():
    low, high = scenes.EMOJI_SIDES
    assert (low / scenes.SCENE_SIZE, high / scenes.SCENE_SIZE) == (
        0.5,
        pytest.approx(0.85, abs=5e-3),
    )
    sides = [scenes.draw(scenes.generator(FROG, n), low, high) for n in range(400)]
    assert (min(sides), max(sides)) == (low, high)
    square = np.full((high, high, 4), 255, np.uint8)
    places = set()
    for number in range(400):
        _, alpha = scenes.compose(
            square, np.zeros((96, 96, 3), np.uint8), scenes.generator(FROG, number)
        )
        assert alpha.sum(dtype=int) == 255 * high * high  # the whole emoji is inside
        rows, columns = np.nonzero(alpha[..., 0])
        places.add((rows.min(), columns.min()))
    assert {0, 96 - high} <= {row for row, _ in places}
    assert {0, 96 - high} <= {column for _, column in places}


def test_emoji_are_not_flipped():
    """'left arrow' must point to the left in every scene."""
    for number in range(8):
        _, alpha = scenes.scene(ARROW, number, 'train')
        box = Image.fromarray(alpha[..., 0]).getbbox()
        half = alpha[box[1] : box[3], box[0] : box[2], 0].astype(int)
        middle = half.shape[1] // 2
        assert half[:, :middle].sum() > half[:, -middle:].sum()  # the head is the larger part


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        UserError, match=r'cannot write openmoji_scenes to config.data.cache_dir=.*'
    ) as e:
        sources.open_train(data_config(tmp_path / 'file' / 'cache'))
    assert str(e.value).endswith('give a writable folder')
    assert '\n' not in str(e.value)
