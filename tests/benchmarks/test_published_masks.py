"""The restated published definitions show the effects that docs/masking.md names."""

import numpy as np
import pytest
from programs import load_benchmark as load

from input_pipeline.photographs import photographs
from pgs.models import normalize_images

masks = load('published_masks')


@pytest.fixture(scope='module')
def images():
    return np.asarray(normalize_images(photographs(masks.SIZE)[:2]), np.float32)


def test_published_edges_are_rounding_noise(images):
    exact, single = (masks.published_edges(images, t) for t in (np.float64, np.float32))
    assert 0.0 < exact.max() < 1e-9
    assert masks.rank_correlation(exact, single) < 0.7


def test_published_candidates_have_strong_edges(images):
    mean, published, here = masks.candidate_figures(images).values()
    assert here < mean < published


def test_a_signed_matrix_is_not_balanced(images):
    plan, _ = masks.published_masks(images, np.float64)
    assert np.abs(plan.sum(axis=2) - 1).max() > 0.1
    assert np.abs(plan.sum(axis=1) - 1).max() < 1e-6  # the columns were scaled last


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).normal(size=(2, 1, 50))
    assert masks.rank_correlation(a, b) == pytest.approx(spearmanr(a[0], b[0]).statistic)
