"""Zero-shot metrics, computed by hand, and class weights by their definition."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from pgs.errors import UserError
from pgs.evaluate.zero_shot import (
    accuracy_metrics,
    average_precisions,
    classify,
    classify_multilabel,
    ranks_of,
)
from pgs.inference.prompts import class_weights, prompts_of


def test_prompts_go_class_by_class():
    prompts = list(prompts_of(['cat', 'dog {c}'], ['a {c}.', '{c} and {c}']))
    assert prompts == ['a cat.', 'cat and cat', 'a dog {c}.', 'dog {c} and dog {c}']


def embed_by_table(table):
    return lambda texts: np.stack([table[text] for text in texts])


def test_class_weights_are_normalised_means_of_normalised_embeddings():
    table = {'a x': [1.0, 0.0], 'the x': [0.0, 1.0], 'a y': [0.6, 0.8], 'the y': [1.0, 0.0]}
    table = {text: np.array(v, np.float32) for text, v in table.items()}
    weights = class_weights(embed_by_table(table), ['x', 'y'], ['a {c}', 'the {c}'])
    np.testing.assert_allclose(weights[0], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(weights[1], np.array([1.6, 0.8]) / np.hypot(1.6, 0.8), rtol=1e-6)


def test_class_weights_in_parts_are_the_same_and_report_their_progress():
    rng = np.random.default_rng(0)
    names, templates = [f'class {i}' for i in range(7)], ['{c}', 'a {c}', 'b {c}']
    table = {t: rng.normal(size=4) for t in prompts_of(names, templates)}
    progress = []
    options = {'classes_at_once': 3, 'notify': progress.append}
    parts = class_weights(embed_by_table(table), names, templates, **options)
    np.testing.assert_array_equal(parts, class_weights(embed_by_table(table), names, templates))
    assert progress == [9, 9, 3]


def test_no_class_is_an_error():
    with pytest.raises(UserError, match='0 and 1 given'):
        class_weights(embed_by_table({}), [], ['{c}'])


def test_ranks_by_hand():
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    # among equal logits the lower id ranks first, as in argmax
    assert ranks_of(logits, np.array([0, 2, 0, 2])).tolist() == [0, 2, 0, 2]


def test_nan_is_never_a_hit():
    assert ranks_of(np.full((1, 3), np.nan), np.array([0])).tolist() == [3]
    assert ranks_of(np.array([[1.0, np.nan, 0.0]]), np.array([0])).tolist() == [1]


def test_accuracies_by_hand():
    # class 0: hit, hit, miss at place 5; class 1: miss at place 1; classes 2 to 5 do not occur
    metrics = accuracy_metrics(np.array([0, 0, 5, 1]), np.array([0, 0, 0, 1]), 6)
    assert metrics['acc1'] == 0.5
    assert metrics['acc5'] == 0.75
    assert metrics['mean_per_class_recall'] == pytest.approx((2 / 3 + 0) / 2)
    assert 'acc5' not in accuracy_metrics(np.array([0]), np.array([0]), 4)


def test_recall_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(300, 7)), rng.integers(0, 7, 300)
    metrics = accuracy_metrics(ranks_of(logits, labels), labels, 7)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert metrics['mean_per_class_recall'] == pytest.approx(expected, abs=1e-12)
    assert metrics['acc1'] == (logits.argmax(axis=1) == labels).mean()


def test_average_precision_by_hand():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    # positives at places 1 and 3: (1/1 + 2/3) / 2; none: 0
    np.testing.assert_allclose(average_precisions(scores, targets), [(1 + 2 / 3) / 2, 0.0])


def test_average_precision_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(200, 5)), rng.integers(0, 2, (200, 5))
    expected = [average_precision_score(targets[:, c], scores[:, c]) for c in range(5)]
    np.testing.assert_allclose(average_precisions(scores, targets), expected, rtol=1e-12)


def test_classify_streams():
    weights = np.eye(3, dtype=np.float32)
    batches = [(np.array([[1.0, 0, 0], [0, 1.0, 0]]), [0, 2]), (np.array([[0, 0, 1.0]]), [2])]
    metrics = classify(batches, lambda images: images, weights)
    assert metrics == {'acc1': 2 / 3, 'mean_per_class_recall': 0.75, 'n': 3}
    labels = [np.array([1, 0, 0]), np.array([0, 1, 0])]
    metrics = classify_multilabel([(batches[0][0], labels)], lambda images: images, weights)
    assert metrics == {'mean_average_precision': 2 / 3, 'n': 2}
