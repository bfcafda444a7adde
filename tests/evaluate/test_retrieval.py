"""Retrieval recall, computed by hand and from the full matrix."""

import jax
import numpy as np
import pytest

from pgs.errors import UserError
from pgs.evaluate.retrieval import embed_captioned, match_ranks, pair_scores, recall_metrics


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_ranks_by_hand():
    rows, columns = (
        np.eye(3, dtype=np.float32),
        np.array([[0.9, 0.8, 0.7], [0.1, 0.5, 0.6], [0.2, 0.1, 0.3]], np.float32),
    )  # row i of the similarities is column i of this array
    ids = np.arange(3)
    assert match_ranks(rows, ids, columns, ids).tolist() == [0, 1, 2]


def test_directions_are_named_for_what_is_found():
    images = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    texts = np.array([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]], np.float32)
    metrics = recall_metrics(images, texts, np.array([0, 1, 1]))
    # texts: 0 is closest to image 1 (0.96 over 0.8), 1 to image 0, 2 to image 1
    assert metrics['image_retrieval_recall@1'] == pytest.approx(1 / 3)
    # images: 0 is closest to text 1, 1 to text 0; the best of image 1's own comes second
    assert metrics['text_retrieval_recall@1'] == 0.0
    assert metrics['text_retrieval_recall@5'] == metrics['image_retrieval_recall@5'] == 1.0


@pytest.mark.parametrize('block', [7, 64, 4096])
def test_blocks_agree_with_the_full_matrix(block):
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    rng.shuffle(owners)
    images, texts = unit(rng.normal(size=(60, 8))), unit(rng.normal(size=(len(owners), 8)))
    progress = []
    metrics = recall_metrics(images, texts, owners, block=block, notify=progress.append)
    assert sum(progress) == len(images) + len(texts)
    similarity = texts.astype(np.float64) @ images.T.astype(np.float64)
    for k in (1, 5, 10):
        nearest = np.argsort(-similarity, axis=1)[:, :k]
        expected = (nearest == owners[:, None]).any(axis=1).mean()
        assert metrics[f'image_retrieval_recall@{k}'] == pytest.approx(expected, abs=1e-9)
        nearest = np.argsort(-similarity.T, axis=1)[:, :k]
        expected = (owners[nearest] == np.arange(60)[:, None]).any(axis=1).mean()
        assert metrics[f'text_retrieval_recall@{k}'] == pytest.approx(expected, abs=1e-9)


def test_an_image_without_caption_is_an_error():
    with pytest.raises(UserError, match='image 1 has no caption'):
        recall_metrics(np.eye(3), np.eye(3)[:2], np.array([0, 2]))


def test_all_captions_are_kept():
    texts = {'a': [1.0, 0.0], 'b': [0.0, 1.0], 'c': [0.0, 1.0]}
    batches = [(np.array([[1.0, 0.0]]), [['a', 'b']]), (np.array([[0.0, 1.0]]), [['c']])]
    images, features, owners = embed_captioned(
        batches,
        lambda images: images.astype(np.float32),
        lambda given: np.array([texts[t] for t in given], np.float32),
    )
    assert owners.tolist() == [0, 0, 1]
    metrics = recall_metrics(images, features, owners)
    assert metrics['image_retrieval_recall@1'] == pytest.approx(2 / 3)  # b is found at image 1
    assert metrics['text_retrieval_recall@1'] == 0.5  # b is as close to image 1 as its own c


def test_pairs():
    images = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    scores = pair_scores(images, images[::-1].copy(), 1.0)
    assert scores['text_recall@1'] == scores['image_recall@1'] == 0.0
    assert scores['text_recall@5'] == scores['image_recall@5'] == 1.0
    assert (scores['n_eval'], scores['chance@1'], scores['chance@5']) == (2, 0.5, 1.0)
    # rows of logits: (0.6, 1.0), (1.0, 0.6); the true pair is 0.6
    assert scores['val_loss'] == pytest.approx(np.log1p(np.exp(0.4)), rel=1e-6)


def test_scores_of_new_features_compile_nothing():
    """What is compiled at each call stays in memory: a long run with evaluations would grow."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if 'backend_compile' in event else None
    )
    features = unit(np.random.default_rng(0).normal(size=(3, 11, 5)))  # shapes of this test alone
    pair_scores(features[0], features[1], 1.0)
    assert compiled
    compiled.clear()
    pair_scores(features[1], features[2], 2.0)
    assert compiled == []


def test_constant_features_score_nothing():
    same = unit(np.ones((10, 4)))
    scores = pair_scores(same, same, 1.0)
    assert scores['text_recall@5'] == scores['image_recall@5'] == 0.0
    assert scores['val_loss'] == pytest.approx(np.log(10), rel=1e-6)


def test_random_features_score_chance():
    rng = np.random.default_rng(0)
    image, text = unit(rng.normal(size=(2, 2000, 32)))
    scores = pair_scores(image, text, 1.0)
    assert scores['text_recall@5'] == pytest.approx(scores['chance@5'], abs=0.003)
