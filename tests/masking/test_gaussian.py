"""The strategy `gaussian`: how often each place stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from configs import base
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.gaussian import center_density, gaussian
from pgs.masking.selection import visible_patches


@functools.cache
def kept_share(mask_ratio=0.5, covariance=0.2):
    """How often each of 14 x 14 patches stays, in 4000 draws."""
    select = jax.jit(
        functools.partial(gaussian, patch_size=2, mask_ratio=mask_ratio, covariance=covariance)
    )
    images, tokens = jnp.zeros((4000, 28, 28, 3)), jnp.zeros((4000, 196, 1))
    selection = select(jax.random.key(0), images, tokens, 0.0)
    assert selection.keep_ids.dtype == jnp.int32
    assert selection.valid is None
    assert selection.keep_ids.shape == (4000, 196 - round(mask_ratio * 196))
    assert (np.diff(selection.keep_ids, axis=1) > 0).all()
    return visible_patches(selection, 196).mean(axis=0).reshape(14, 14)


def test_the_probabilities_of_the_published_mask():
    """Expected: 400,000 draws in NumPy with the density of scipy, as the published code has it."""
    share = kept_share()
    assert share[6:8, 6:8].mean() == pytest.approx(1.00, abs=0.005)
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(0.297, abs=0.01)
    sides = np.concatenate([share[0, 6:8], share[-1, 6:8], share[6:8, 0], share[6:8, -1]])
    assert sides.mean() == pytest.approx(0.356, abs=0.01)
    assert share.mean() == pytest.approx(0.5, abs=1e-6)


def test_the_mask_has_the_symmetry_of_the_image():
    share = kept_share()
    for other in (share[::-1], share[:, ::-1], share.T):
        assert np.abs(share - other).max() < 0.05


def test_density_is_that_of_scipy():
    axis = np.linspace(-1, 1, 14)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    expected = scipy.stats.multivariate_normal([0, 0], 0.2 * np.eye(2)).pdf(points)
    np.testing.assert_allclose(center_density(14, 14, 0.2), expected, rtol=1e-5)


def test_rows_and_columns_of_an_image_that_is_not_square():
    density = center_density(3, 5, 0.2).reshape(3, 5)
    assert density.argmax() == 7
    np.testing.assert_allclose(density, density[::-1, ::-1], rtol=1e-5)
    selection = gaussian(
        jax.random.key(0), jnp.zeros((2, 24, 40, 3)), jnp.zeros((2, 15, 4)), 0.0, patch_size=8
    )
    assert (np.asarray(selection.keep_ids) == 7).any(axis=1).all()


def test_a_large_covariance_masks_all_places_alike():
    assert np.abs(kept_share(covariance=1e4) - 0.5).max() < 0.04


def test_at_least_one_patch_stays():
    assert kept_share(mask_ratio=0.9).sum() == pytest.approx(20, abs=1e-4)
    selection = gaussian(
        jax.random.key(0),
        jnp.zeros((3, 16, 16, 3)),
        jnp.zeros((3, 4, 8)),
        0.0,
        patch_size=8,
        mask_ratio=0.99,
    )
    assert selection.keep_ids.shape == (3, 1)


def test_same_key_same_mask_other_key_other_mask():
    images, tokens = jnp.zeros((4, 28, 28, 3)), jnp.zeros((4, 196, 1))
    first, again, other = (
        visible_patches(gaussian(jax.random.key(k), images, tokens, 0.5, patch_size=2), 196)
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'mask_ratio': 1.0}, 'masking.mask_ratio=1.0 is not a fraction'),
        ({'mask_ratio': -0.5}, 'masking.mask_ratio=-0.5 is not a fraction'),
        ({'covariance': 0.0}, 'masking.covariance=0.0 must be above 0'),
        ({'covariance': -1.0}, 'masking.covariance=-1.0 must be above 0'),
    ],
)
def test_bad_options_are_named(changes, words, normalized_photos, embeddings):
    masking = base.get_config().masking.to_dict() | {'strategy': 'gaussian'} | changes
    with pytest.raises(UserError, match=words):
        configured(masking, 16)(jax.random.key(0), normalized_photos, embeddings, 0.0)
