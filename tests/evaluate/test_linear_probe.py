"""The linear probe on digits, its order of samples and its search of the weight decay."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pgs.evaluate import linear_probe
from pgs.evaluate.linear_probe import COARSE, DECAYS, batch_order, search


@pytest.fixture(scope='module')
def digits():
    data = load_digits()
    features = (data.data / np.linalg.norm(data.data, axis=1, keepdims=True)).astype(np.float32)
    return features, data.target.astype(np.int64)


def part(data, start, stop):
    return tuple(side[start:stop] for side in data)


def test_an_epoch_holds_each_sample_once():
    order = batch_order(0, 10, epochs=3, batch_size=4)
    assert order.shape == (9, 4)
    for epoch in order.reshape(3, 12):
        assert sorted(epoch.tolist()) == [-1, -1, *range(10)]
    assert not np.array_equal(order[:3], order[3:6])


def test_digits_are_learned_without_weight_decay(digits):
    metrics = linear_probe.linear_probe(part(digits, 0, 1200), part(digits, 1200, 1797), None, 10)
    assert metrics['weight_decay'] == 0.0
    assert metrics['n'] == 597
    assert metrics['acc1'] > 0.85
    assert metrics['acc5'] > metrics['acc1']


def test_a_validation_split_chooses_the_weight_decay(digits):
    tried = []
    metrics = linear_probe.linear_probe(
        part(digits, 0, 300),
        part(digits, 900, 1797),
        part(digits, 300, 600),
        10,
        epochs=40,
        notify=tried.append,
    )
    assert metrics['weight_decay'] in DECAYS
    assert metrics['acc1'] > 0.8
    assert len(tried) == len(set(tried)) <= linear_probe.MAX_TRIALS
    # With a weight decay of 100 the layer diverges; it must not be chosen.
    assert metrics['weight_decay'] < 10


def test_the_search_finds_a_peak_and_tries_each_index_once():
    for peak in (0, 3, 37, 50, 95, 96):
        asked = []

        def accuracy_of(index, peak=peak, asked=asked):
            asked.append(index)
            return -abs(index - peak)

        assert search(accuracy_of) == peak
        assert len(asked) == len(set(asked)) <= linear_probe.MAX_TRIALS


def test_the_grid_is_that_of_the_protocol():
    assert len(DECAYS) == 97
    np.testing.assert_allclose(DECAYS[list(COARSE)], np.logspace(-6, 2, 7))
