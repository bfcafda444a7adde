"""Edge scores against scipy, and on images that could break them."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from pgs.masking.edges import (
    LUMA_WEIGHTS,
    edge_scores,
    gradients_by_convolution,
    gradients_by_shifts,
    luma,
    means_by_product,
    sobel_magnitude,
)


def test_magnitude_equals_scipy_with_replicated_border(photos):
    images = photos.astype(np.float32) / 255.0
    luma = images.astype(np.float64) @ np.array(LUMA_WEIGHTS)
    ours = np.asarray(sobel_magnitude(images))
    for i in range(len(images)):  # one at a time: scipy smooths along every other axis
        gradients = [scipy.ndimage.sobel(luma[i], axis=a, mode='nearest') for a in (0, 1)]
        np.testing.assert_allclose(ours[i], np.hypot(*gradients), atol=1e-5)


@pytest.mark.parametrize('shape', [(2, 9, 14), (1, 1, 3), (1, 4, 1)])
def test_a_convolution_and_shifts_give_the_same_gradients(shape):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for a, b in zip(gradients_by_convolution(image), gradients_by_shifts(image), strict=True):
        assert a.shape == shape
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_the_convolution_of_photographs_and_of_a_flat_image(photos):
    flat = np.full((1, 32, 32, 3), 0.37, np.float32)
    for images, atol in ((photos.astype(np.float32), 5e-4), (flat, 0.0)):
        values = luma(images)
        for a, b in zip(gradients_by_convolution(values), gradients_by_shifts(values), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_scores_are_patch_means_scaled_per_image(photos):
    images = photos.astype(np.float32)
    magnitude = np.asarray(sobel_magnitude(images))
    means = magnitude.reshape(5, 14, 16, 14, 16).mean(axis=(2, 4)).reshape(5, 196)
    low, high = means.min(1, keepdims=True), means.max(1, keepdims=True)
    scores = np.asarray(edge_scores(images, 16))
    np.testing.assert_allclose(scores, (means - low) / (high - low), atol=1e-5)
    assert (scores.min(1) == 0).all()
    np.testing.assert_allclose(scores.max(1), 1.0, rtol=1e-6)


def test_a_product_gives_the_same_patch_means(photos):
    magnitude = np.asarray(sobel_magnitude(photos.astype(np.float32)))
    expected = magnitude.reshape(5, 14, 16, 14, 16).mean(axis=(2, 4))
    np.testing.assert_allclose(means_by_product(magnitude, 16), expected, rtol=2e-6)


@pytest.mark.parametrize('value', [0.0, 0.1, -1.7923, 1.0, 255.0, 1e4])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_flat_image_has_no_edges(value, dtype):
    images = jnp.full((2, 64, 64, 3), value, dtype)
    assert (np.asarray(edge_scores(images, 16)) == 0).all()


def test_one_grey_level_in_one_pixel_is_an_edge_of_its_patch():
    images = np.full((1, 64, 64, 3), 200.0, np.float32)
    images[0, 24, 40] += 1.0  # patch row 1, column 2
    scores = np.asarray(edge_scores(images, 16))[0]
    assert scores.argmax() == 1 * 4 + 2
    assert scores[6] == pytest.approx(1.0)
    assert (np.delete(scores, 6) == 0).all()


def test_the_border_is_no_frame():
    """A bright flat image must not score on its rim, as zero padding would make it."""
    images = np.full((1, 64, 64, 3), 0.8, np.float32)
    images[0, 30:34, 30:34] = 0.1
    scores = np.asarray(edge_scores(images, 8)).reshape(8, 8)
    assert scores[0].max() == scores[-1].max() == scores[:, 0].max() == scores[:, -1].max() == 0
    assert scores[3:5, 3:5].min() > 0


def test_pixel_scale_does_not_matter(photos):
    bright = edge_scores(photos.astype(np.float32), 16)
    unit = edge_scores(photos.astype(np.float32) / 255.0 - 0.5, 16)
    np.testing.assert_allclose(bright, unit, atol=1e-5)
