"""The strategy `background`: its two maps by hand and by scipy, PGS as its special case, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from pgs.errors import UserError
from pgs.masking.background import background, border_distance, neighbourhood_means
from pgs.masking.pgs import pgs

SHAPE = (4, 64, 64, 3)


@pytest.fixture(scope='module')
def inputs():
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), (0, 4, 4, 0))
    return (
        jax.random.key(3),
        jnp.asarray(smooth, jnp.float32),
        jnp.asarray(rng.normal(size=(4, 64, 8))),
    )


def keep(inputs, strategy, **options):
    run = jax.jit(functools.partial(strategy, progress=0.3, patch_size=8, **options))
    return np.asarray(run(*inputs).keep_ids)


def test_distance_from_the_border_by_hand():
    rows = border_distance(3, 5).reshape(3, 5)
    np.testing.assert_allclose(rows[1], [0, 0.5, 1, 0.5, 0])
    assert not rows[[0, 2]].any()
    assert border_distance(14, 14).max() == 1.0
    assert border_distance(1, 1).tolist() == [0.0]


def test_means_of_a_neighbourhood_are_those_of_scipy():
    scores = np.random.default_rng(0).random((2, 15)).astype(np.float32)
    for window in (3, 5):
        means = scipy.ndimage.uniform_filter(
            scores.reshape(2, 3, 5).astype(float), (0, window, window), mode='nearest'
        ).reshape(2, 15)
        low, high = means.min(1, keepdims=True), means.max(1, keepdims=True)
        found = neighbourhood_means(jnp.asarray(scores), 3, 5, window)
        np.testing.assert_allclose(found, (means - low) / (high - low), atol=1e-5)
    assert not np.asarray(neighbourhood_means(jnp.full((1, 15), 0.7), 3, 5, 3)).any()


def test_without_its_additions_it_is_pgs(inputs):
    off = {'edge_window': 1, 'border_weight': 0.0}
    for ratio in (0.5, 0.3):
        of_pgs = keep(inputs, pgs, min_ratio=ratio, max_ratio=ratio)
        np.testing.assert_array_equal(keep(inputs, background, mask_ratio=ratio, **off), of_pgs)
    assert (keep(inputs, background) != keep(inputs, pgs, min_ratio=0.5)).any()


def test_each_addition_changes_the_mask(inputs):
    default = keep(inputs, background)
    for change in ({'edge_window': 1}, {'border_weight': 0.0}, {'selection_noise': 1.0}):
        assert (keep(inputs, background, **change) != default).any()


def test_a_strong_border_weight_keeps_the_middle_of_a_flat_image():
    flat = jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros((4, 64, 8))
    kept = keep(flat, background, mask_ratio=0.75, border_weight=100.0)
    assert (border_distance(8, 8)[kept] > 0.3).all()


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('edge_window', 4, 'edge_window=4 must be an odd number of patches'),
        ('edge_window', 0, 'edge_window=0 must be an odd number of patches'),
        ('border_weight', -1.0, r'border_weight=-1\.0 must be at least 0'),
        ('mask_ratio', 1.0, r'mask_ratio=1\.0 is not a fraction'),
        ('epsilon', 0.0, r'epsilon=0\.0 must be above 0'),
    ],
)
def test_options_out_of_range(inputs, option, value, message):
    with pytest.raises(UserError, match=message):
        keep(inputs, background, **{option: value})
