"""The order of samples: complete, shuffled, mixed, and a function of only seed and step."""

import numpy as np
import pytest

from input_pipeline import sampler
from pgs.errors import UserError


def stream(seed, batch_size, steps, lengths, start=0, **options):
    return np.concatenate(
        [
            sampler.batch_indices(
                step, seed=seed, batch_size=batch_size, lengths=lengths, **options
            ).numpy()
            for step in range(start, start + steps)
        ]
    )


@pytest.mark.parametrize(('length', 'batch_size'), [(12, 4), (13, 4), (5, 8), (1, 2)])
def test_each_sample_once_an_epoch(length, batch_size):
    """Also if the batch does not divide the epoch, or is larger than it."""
    indices = stream(0, batch_size, length, [length])
    for epoch in range(batch_size):
        part = indices[epoch * length : (epoch + 1) * length]
        assert sorted(part) == list(range(length))


def test_epochs_and_seeds_differ():
    one, other = stream(0, 100, 2, [100]), stream(1, 100, 2, [100])
    assert (one[:100] != one[100:]).any()
    assert (one != other).any()


@pytest.mark.parametrize('length', [100, 424, 3529])
def test_shuffles_well_under_plain_keys(length):
    """As a true random permutation: about one record in its place, neighbours a third apart."""
    for seed in range(3):
        orders = stream(seed, length, 10, [length]).reshape(10, length)
        in_place = (orders == np.arange(length)).sum(axis=1)
        assert in_place.mean() < 4
        assert in_place.max() < 15
        apart = np.abs(np.diff(orders, axis=1)).mean()
        assert apart == pytest.approx(length / 3, rel=0.1)


def test_starts_anywhere():
    whole = stream(3, 8, 20, [50])
    np.testing.assert_array_equal(whole[5 * 8 :], stream(3, 8, 15, [50], start=5))
    mixed = stream(3, 8, 20, [50, 7], weights=(3, 1))
    np.testing.assert_array_equal(mixed[40:], stream(3, 8, 15, [50, 7], start=5, weights=(3, 1)))


def test_far_steps_cost_nothing():
    last = stream(0, 4, 1, [12_000_000], start=10**9)
    assert ((last >= 0) & (last < 12_000_000)).all()


@pytest.mark.parametrize('weights', [(1, 1), (3, 1), (0.2, 0.5), (90, 7, 3), (1.0, 2.0, 4.0)])
def test_a_mixture_keeps_its_weights_and_each_sources_epochs(weights):
    lengths = [40, 23, 11][: len(weights)]
    steps, batch_size = 200, 64
    indices = stream(1, batch_size, steps, lengths, weights=weights).reshape(steps, batch_size)
    ends = np.cumsum(lengths)
    source = np.searchsorted(ends, indices, side='right')
    shares = np.array(weights) / sum(weights)
    for number, (share, length) in enumerate(zip(shares, lengths, strict=True)):
        per_batch = (source == number).sum(axis=1)
        assert np.abs(per_batch - share * batch_size).max() <= 2
        assert per_batch.sum() == pytest.approx(share * indices.size, abs=2)
        # Every record of the source once, before any is repeated.
        drawn = np.concatenate(
            [np.sort(row[s == number]) for row, s in zip(indices, source, strict=True)]
        )
        counts = np.bincount(drawn - (ends[number] - length), minlength=length)
        assert counts.max() - counts.min() <= 1


def test_every_part_of_a_mixed_batch_has_each_source():
    indices = stream(0, 64, 20, [1000, 1000], weights=(1, 1)).reshape(20, 4, 16)
    from_first = (indices < 1000).sum(axis=2)
    assert from_first.min() >= 1
    assert from_first.max() <= 15


def test_a_weight_without_a_sample_in_a_batch_is_named():
    with pytest.raises(UserError, match=r'weight 0\.001 .* batch of 64'):
        stream(0, 64, 1, [10, 10], weights=(1, 0.001))
