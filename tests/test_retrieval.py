"""Retrieval scores by hand."""

import numpy as np
import pytest

from pgs.evals.retrieval import recall_at, retrieval_scores


def test_by_hand():
    # rows: images; their own caption is on the diagonal, at rank 0, 1 and 2
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.3]])
    assert recall_at(similarity, 1) == pytest.approx(1 / 3)
    assert recall_at(similarity, 2) == pytest.approx(2 / 3)
    assert recall_at(similarity, 3) == 1.0
    # columns: captions; own image at rank 0, 1 and 0
    assert recall_at(similarity.T, 1) == pytest.approx(2 / 3)


def test_directions_are_named_for_what_is_found():
    images = np.array([[1.0, 0.0], [0.6, 0.8]])
    texts = np.array([[0.8, 0.6], [1.0, 0.0]])
    scores = retrieval_scores(images, texts)
    # image 0 is closest to caption 1, image 1 to caption 0
    assert scores['text_recall@1'] == 0.0
    # caption 0 is closest to image 1, caption 1 to image 0
    assert scores['image_recall@1'] == 0.0
    assert scores['text_recall@5'] == scores['image_recall@5'] == 1.0
    assert scores['n_eval'] == 2
    assert scores['chance@1'] == 0.5
    assert scores['chance@5'] == 1.0


def test_constant_features_score_nothing():
    same = np.ones((10, 4))
    scores = retrieval_scores(same, same)
    assert scores['text_recall@5'] == scores['image_recall@5'] == 0.0


def test_random_features_score_chance():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 2000, 32))
    scores = retrieval_scores(image, text)
    assert scores['text_recall@5'] == pytest.approx(scores['chance@5'], abs=0.003)
