"""The order of samples: complete, shuffled, and a function of seed and step alone."""

import numpy as np
import pytest

from input_pipeline import sampler


def stream(seed, num_examples, batch_size, steps, start=0):
    return np.concatenate(
        [
            sampler.sample_indices(
                sampler.batch_positions(step, batch_size), seed=seed, num_examples=num_examples
            ).numpy()
            for step in range(start, start + steps)
        ]
    )


@pytest.mark.parametrize(('num_examples', 'batch_size'), [(12, 4), (13, 4), (5, 8), (1, 2)])
def test_each_sample_once_an_epoch(num_examples, batch_size):
    """Also where the batch does not divide the epoch, or is larger than it."""
    indices = stream(0, num_examples, batch_size, steps=num_examples)
    for epoch in range(batch_size):
        part = indices[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(part) == list(range(num_examples))


def test_epochs_and_seeds_differ():
    one, other = stream(0, 100, 100, 2), stream(1, 100, 100, 2)
    assert (one[:100] != one[100:]).any()
    assert (one != other).any()


@pytest.mark.parametrize('num_examples', [100, 424, 3529])
def test_shuffles_well_under_plain_keys(num_examples):
    """As a true random permutation: about one record in its place, neighbours a third apart."""
    for seed in range(3):
        in_place, apart = [], []
        for epoch in range(10):
            positions = np.arange(num_examples) + epoch * num_examples
            order = sampler.sample_indices(positions, seed=seed, num_examples=num_examples).numpy()
            in_place.append((order == np.arange(num_examples)).sum())
            apart.append(np.abs(np.diff(order)).mean())
        assert np.mean(in_place) < 4
        assert max(in_place) < 15
        assert np.mean(apart) == pytest.approx(num_examples / 3, rel=0.1)


def test_starts_anywhere():
    np.testing.assert_array_equal(stream(3, 50, 8, 20)[5 * 8 :], stream(3, 50, 8, 15, start=5))


def test_far_steps_cost_nothing():
    last = sampler.sample_indices(
        sampler.batch_positions(10**9, 4), seed=0, num_examples=12_000_000
    )
    assert ((last.numpy() >= 0) & (last.numpy() < 12_000_000)).all()


def test_neighbours_are_scattered():
    """A shuffle that keeps runs of neighbours together would repeat the order of the shards."""
    indices = stream(0, 10_000, 1000, 10)
    assert np.abs(np.diff(indices)).mean() == pytest.approx(10_000 / 3, rel=0.05)
