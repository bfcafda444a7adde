"""Canny's detector against scikit-image, and on images that could break it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.feature import canny

from pgs.masking.canny import canny_edges, canny_scores
from pgs.masking.edges import LUMA_WEIGHTS
from pgs.masking.object_retention import photographs
from pgs.masking.pgs import pgs_steps

edges_of = jax.jit(canny_edges)
scores_of = jax.jit(canny_scores, static_argnames='patch_size')


@pytest.mark.parametrize('size', [224, 96, 64])
def test_edges_equal_those_of_scikit_image(size):
    """Every pixel of the five photographs; a rounding error may move one pixel in a thousand."""
    images = photographs(size)
    edges = np.asarray(edges_of(images.astype(np.float32)))
    for i, image in enumerate(images):
        luma = image.astype(np.float64) @ np.array(LUMA_WEIGHTS)
        expected = canny((luma - luma.min()) / (luma.max() - luma.min()), sigma=1.0)
        assert expected.any()
        assert (edges[i] != expected).sum() <= 0.001 * expected.sum()


def test_a_weak_line_is_followed_from_its_strong_part():
    """A disk whose contrast is strong at its left only, as far as the top, 60 pixels along the line.

    Its right, after 120 pixels, is farther away than CHAIN; scikit-image follows it to the end.
    """
    row, column = np.mgrid[:96, :96] - 47.5
    contrast = 0.045 + np.clip((-30 - column) / 100, 0.0, 0.1)
    image = np.where(np.hypot(row, column) < 40, contrast, 0.0)
    image[:3, :3] = 1.0
    edges = np.asarray(edges_of(np.repeat(image[None, :, :, None], 3, axis=3).astype(np.float32)))
    expected = canny(image, sigma=1.0)
    # Two rows at a straight step are equally strong: rounding decides which of them is kept.
    differ = (edges[0] != expected)[:, :48]
    assert differ.sum() <= 0.05 * expected[:, :48].sum()
    assert edges[0, 6:10, 38:46].any()
    assert expected[40:56, 80:].any()
    assert not edges[0, 40:56, 80:].any()


def test_scores_are_shares_of_edge_pixels(photos):
    images = photos.astype(np.float32)
    edges = np.asarray(edges_of(images), np.float64)
    shares = edges.reshape(5, 14, 16, 14, 16).mean(axis=(2, 4)).reshape(5, 196)
    low, high = shares.min(1, keepdims=True), shares.max(1, keepdims=True)
    scores = np.asarray(scores_of(images, patch_size=16))
    np.testing.assert_allclose(scores, (shares - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 1 / 255.0, 1e4])
def test_pixel_scale_does_not_matter(photos, scale):
    expected = np.asarray(edges_of(photos.astype(np.float32)))
    edges = np.asarray(edges_of((photos.astype(np.float32) - 100.0) * scale))
    assert (edges != expected).mean() < 1e-4


@pytest.mark.parametrize('value', [0.0, 0.1, -1.7923, 255.0, 1e4])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_flat_image_has_no_edges(value, dtype):
    images = jnp.full((2, 64, 64, 3), value, dtype)
    assert not np.asarray(edges_of(images)).any()
    assert (np.asarray(scores_of(images, patch_size=16)) == 0).all()


def test_an_image_does_not_depend_on_its_batch(photos):
    together = np.asarray(edges_of(photos.astype(np.float32)))
    alone = np.concatenate([edges_of(image[None].astype(np.float32)) for image in photos])
    np.testing.assert_array_equal(together, alone)


def test_pgs_with_canny(normalized_photos, embeddings):
    """Runs inside jit and under a gradient, and its edges are Canny's."""
    options = {'patch_size': 16, 'edge_detector': 'canny'}
    steps = jax.jit(functools.partial(pgs_steps, **options))(
        jax.random.key(0), normalized_photos, embeddings, 0.0
    )
    np.testing.assert_allclose(
        steps.edges_BxL, scores_of(normalized_photos, patch_size=16), atol=1e-6
    )

    def score(images):
        return pgs_steps(jax.random.key(0), images, embeddings, 0.5, **options).edges_BxL.sum()

    assert float(jnp.abs(jax.grad(score)(normalized_photos)).max()) == 0.0
