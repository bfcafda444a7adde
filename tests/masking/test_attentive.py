"""The strategy `attentive`: which cells stay for attention maps made by hand, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import shrunk_quickstart

from pgs.build import check_config
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.attentive import attentive, kept_cells
from pgs.masking.selection import visible_patches
from pgs.masking.strategies import options_of, selection_shape
from pgs.masking.whole_images import keep_some_whole


def visible(attention, patches, **options):
    """Visible patches (B, side, side) for a map (B, S)."""
    attention = jnp.asarray(attention, jnp.float32)
    batch, side = len(attention), round(patches**0.5)
    select = jax.jit(functools.partial(attentive, patch_size=8, **options))
    images, embeddings = jnp.zeros((batch, side * 8, side * 8, 3)), jnp.zeros((batch, patches, 4))
    selection = select(jax.random.key(0), images, embeddings, 0.5, attention=attention)
    assert selection.valid is None
    return visible_patches(selection, patches).reshape(batch, side, side)


def in_cells(maps):
    """Each value of (B, c, c) as 2 x 2 patches."""
    return np.repeat(np.repeat(maps, 2, axis=1), 2, axis=2)


def test_the_most_attended_cells_stay():
    shown = visible([[0.1, 0.4, 0.3, 0.2], [0.4, 0.1, 0.1, 0.2]], 16)
    # int(4 * 0.5) + 1 cells of 2 x 2 patches
    cells = np.array([[[0, 1], [1, 1]], [[1, 0], [1, 1]]], bool)
    np.testing.assert_array_equal(shown, in_cells(cells))
    shown = visible([[0.1, 0.4, 0.3, 0.2]], 16, mask_ratio=0.8)
    np.testing.assert_array_equal(shown, in_cells(np.array([[[0, 1], [0, 0]]], bool)))


def test_a_map_of_all_patches_is_averaged_over_each_cell():
    maps = np.random.default_rng(0).random((3, 14, 14))
    means = maps.reshape(3, 7, 2, 7, 2).mean(axis=(2, 4))
    shown = visible(maps.reshape(3, 196), 196)
    assert (shown.sum(axis=(1, 2)) == 100).all()
    np.testing.assert_array_equal(shown, visible(means.reshape(3, 49), 196))
    expected = means >= np.sort(means.reshape(3, 49))[:, -25, None, None]
    np.testing.assert_array_equal(shown, in_cells(expected))


def test_on_a_grid_with_an_odd_side_each_patch_is_a_cell():
    maps = np.random.default_rng(0).random((2, 49))
    shown = visible(maps, 49, attention_scale=1.0)
    expected = maps >= np.sort(maps)[:, -25, None]
    np.testing.assert_array_equal(shown.reshape(2, 49), expected)


@pytest.mark.parametrize(
    ('cells', 'mask_ratio', 'kept'),
    [(49, 0.5, 25), (49, 0.0, 49), (49, 0.99, 1), (16, 0.5, 9), (10, 0.9, 2), (1, 0.5, 1)],
)
def test_number_of_cells(cells, mask_ratio, kept):
    assert kept_cells(cells, mask_ratio) == kept


def test_a_reversed_map_keeps_the_opposite_set():
    maps = np.random.default_rng(0).random((4, 16))
    shown = visible(maps, 64)  # 9 of 16 cells
    opposite = visible(-maps, 64, mask_ratio=0.6)  # the 7 least attended cells
    np.testing.assert_array_equal(opposite, ~shown)


def test_equal_scores_give_the_same_mask_for_any_key():
    shown = visible(np.zeros((2, 49)), 196)
    assert (shown.sum(axis=(1, 2)) == 100).all()
    np.testing.assert_array_equal(shown[0], shown[1])


def test_attention_is_no_option_and_the_slots_are_static():
    config = shrunk_quickstart(total_steps=1)
    config.masking.strategy = 'attentive'
    strategy = configured(config.masking, 16)
    assert set(options_of(strategy)) == {'mask_ratio', 'attention_scale', 'ema_decay'}
    shape = selection_shape(strategy, 224, 16, batch=32)
    assert (shape.keep_ids.shape, shape.valid, shape.buckets) == ((32, 100), None, None)
    with pytest.raises(TypeError, match='attention'):
        strategy(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4, 2)), 0.0)


def test_whole_images_get_the_map_too():
    config = shrunk_quickstart(total_steps=1)
    config.masking.strategy = 'attentive'
    strategy = keep_some_whole(configured(config.masking, 8), 0.25, 4)
    maps = np.random.default_rng(0).random((8, 16)).astype(np.float32)
    images, embeddings = jnp.zeros((8, 64, 64, 3)), jnp.zeros((8, 64, 4))
    selection = jax.jit(strategy)(jax.random.key(0), images, embeddings, 0.5, attention=maps)
    shown = visible_patches(selection, 64)
    whole = shown.all(axis=1)
    assert whole.reshape(2, 4).sum(axis=1).tolist() == [1, 1]
    np.testing.assert_array_equal(shown[~whole], visible(maps, 64).reshape(8, 64)[~whole])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'masking.ema_decay': 1.0}, 'masking.ema_decay=1.0 must be from 0 to below 1'),
        ({'masking.ema_decay': -0.1}, 'masking.ema_decay=-0.1'),
        ({'masking.ema_decay': float('nan')}, 'masking.ema_decay=nan must be from 0'),
        ({'masking.mask_ratio': 1.0}, 'masking.mask_ratio=1.0 must be from 0 to below 1'),
        ({'masking.mask_ratio': -0.5}, 'masking.mask_ratio=-0.5'),
        ({'masking.attention_scale': 0.25}, 'masking.attention_scale=0.25 must be 0.5'),
        ({'masking.attention_scale': 'half'}, "attention_scale='half' must be a number above 0"),
        (
            {'model.image.image_size': 40},
            'masking.attention_scale=0.5 does not fit 5 x 5 patches (image_size=40, patch_size=8), '
            'because 5 is odd: set it to 1.0',
        ),
    ],
)
def test_bad_options_get_one_line(changes, words):
    config = shrunk_quickstart(total_steps=1)
    config.masking.strategy = 'attentive'
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        check_config(config, devices=1, platform='cpu')
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_an_odd_grid_passes_at_full_resolution():
    config = shrunk_quickstart(total_steps=1)
    config.masking.update(strategy='attentive', attention_scale=1.0)
    config.model.image.image_size = 40
    check_config(config, devices=1, platform='cpu')
