"""Patch similarity against figures of the published code, and on images without texture."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgs.masking.similarity import (
    cosine_matrix,
    means_by_product,
    patch_similarity,
    pixel_patches,
)
from pgs.models import normalize_images

# Rounding of a cosine of 768 numbers: JAX 0.12 sums products in another order (1.4e-5 was measured).
ROUNDING = 1e-5 if jax.__version_info__ < (0, 12) else 2e-5
FIGURES = np.load(Path(__file__).parents[1] / 'data' / 'patch_similarity.npz')


@pytest.mark.parametrize('epoch', [0, 16])
def test_agrees_with_the_published_similarity(epoch):
    images = normalize_images(FIGURES['images'])
    tokens = FIGURES['tokens'][:, 1:]  # the first is the class token
    similarity = patch_similarity(images, tokens, epoch / 32, patch_size=16)
    np.testing.assert_allclose(similarity[:, ::8], FIGURES[f'similarity_epoch{epoch}'], atol=1e-4)


@pytest.mark.parametrize('progress', [0.0, 0.4, 1.0])
def test_is_symmetric_bounded_with_unit_diagonal(normalized_photos, embeddings, progress):
    similarity = np.asarray(
        patch_similarity(normalized_photos, embeddings, progress, patch_size=16)
    )
    assert similarity.shape == (5, 196, 196)
    np.testing.assert_allclose(similarity, similarity.transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(np.diagonal(similarity, axis1=1, axis2=2), 1.0, atol=ROUNDING)
    assert np.abs(similarity).max() <= 1 + ROUNDING


def test_progress_moves_from_pixels_to_embeddings(normalized_photos, embeddings):
    start = patch_similarity(normalized_photos, embeddings, 0.0, patch_size=16)
    end = patch_similarity(normalized_photos, embeddings, 1.0, patch_size=16)
    middle = patch_similarity(normalized_photos, embeddings, 0.25, patch_size=16)
    np.testing.assert_allclose(middle, 0.75 * start + 0.25 * end, atol=1e-6)
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    np.testing.assert_allclose(end, unit @ unit.transpose(0, 2, 1), atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_flat_patches_are_alike_and_unlike_texture(dtype):
    images = np.full((1, 32, 32, 3), 0.37, np.float32)
    images[0, :16, :16] = np.random.default_rng(0).normal(size=(16, 16, 3))
    images[0, 16:, 16:] = -1.2
    similarity = patch_similarity(
        jnp.asarray(images, dtype), jnp.ones((1, 4, 8), dtype), 0.0, patch_size=16
    )
    similarity = np.asarray(similarity)[0]
    np.testing.assert_allclose(similarity[1:, 1:], 1.0, atol=1e-4)
    np.testing.assert_allclose(similarity[0, 1:], 0.0, atol=1e-3)


def test_cosines_of_bfloat16_are_those_of_the_same_numbers_in_float32(embeddings):
    half = jnp.asarray(embeddings, jnp.bfloat16)
    np.testing.assert_allclose(
        cosine_matrix(half), cosine_matrix(half.astype(jnp.float32)), atol=ROUNDING
    )


def test_zero_embeddings_give_no_nan():
    matrix = cosine_matrix(jnp.zeros((1, 5, 8)))
    np.testing.assert_allclose(matrix, 1.0, atol=1e-6)


def test_a_product_with_ones_gives_the_means(normalized_photos):
    patches = np.asarray(pixel_patches(normalized_photos, 16))
    means = means_by_product(patches)
    assert means.shape == (5, 196, 1)
    np.testing.assert_allclose(means[..., 0], patches.mean(axis=-1), atol=3e-6)
    assert not np.asarray(means_by_product(jnp.zeros((1, 2, 48)))).any()


def test_patches_are_in_row_major_order():
    images = np.arange(1 * 4 * 6 * 3, dtype=np.float32).reshape(1, 4, 6, 3)
    patches = np.asarray(pixel_patches(images, 2)).reshape(6, 2, 2, 3)
    np.testing.assert_array_equal(patches[1], images[0, :2, 2:4])
    np.testing.assert_array_equal(patches[3], images[0, 2:, :2])


def test_half_precision_input_is_computed_in_float32(normalized_photos, embeddings):
    half = patch_similarity(
        jnp.asarray(normalized_photos, jnp.bfloat16),
        jnp.asarray(embeddings, jnp.bfloat16),
        jnp.float32(0.5),
        patch_size=16,
    )
    assert half.dtype == jnp.float32
    full = patch_similarity(normalized_photos, embeddings, 0.5, patch_size=16)
    assert float(jax.numpy.abs(half - full).mean()) < 0.01
