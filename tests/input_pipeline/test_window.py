"""The window shuffle: every record once an epoch, on any number of hosts, from few shards at once."""

import itertools

import numpy as np
import pytest

from input_pipeline import window
from pgs.errors import UserError

UNEQUAL = (17, 1, 40, 3, 25, 9, 30, 12, 0, 28, 5, 33)


def order_of(*shards, seed=3, batch_size=24, streams=4, window_shards=2, weights=None):
    weights = weights or (1.0,) * len(shards)
    return window.Order(seed, batch_size, streams, window_shards, shards, weights)


def batches(order, steps, start=0, rows=None):
    rows = np.arange(order.batch_size) if rows is None else rows
    return np.stack([window.batch_indices(order, s, rows) for s in range(start, start + steps)])


@pytest.mark.parametrize(
    ('shards', 'batch_size', 'streams'),
    [
        (UNEQUAL, 24, 4),
        (UNEQUAL, 24, 1),
        (UNEQUAL, 24, 12),
        ((100,) * 8, 20, 4),
        ((5, 2), 24, 4),  # several epochs a batch
        ((101,), 16, 8),  # all streams in one shard
    ],
)
def test_each_record_once_an_epoch(shards, batch_size, streams):
    """An epoch ends after exactly N samples, within a batch where N asks for it."""
    order = order_of(shards, batch_size=batch_size, streams=streams)
    length = sum(shards)
    steps = -(-3 * length // batch_size)
    drawn = batches(order, steps).ravel()
    epochs = [drawn[e * length : (e + 1) * length] for e in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))
    assert length < 20 or any((a != b).any() for a, b in itertools.pairwise(epochs))


@pytest.mark.parametrize('weights', [(3.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_mixture_keeps_the_samplers_shares_and_each_sources_epochs(weights):
    sources = (UNEQUAL, (10, 13), (50, 7, 4))[: len(weights)]
    order = order_of(*sources, batch_size=32, weights=weights)
    steps = 40
    drawn = batches(order, steps)
    ends = np.cumsum([sum(s) for s in sources])
    source = np.searchsorted(ends, drawn, side='right')
    shares = np.cumsum(weights) / sum(weights)
    for number, length in enumerate(order.lengths):
        below = shares[number - 1] if number else 0.0
        counts = np.cumsum((source == number).sum(axis=1))
        for step, count in enumerate(counts, 1):
            assert count == int(shares[number] * step * 32) - int(below * step * 32)
        mine = drawn[source == number] - (ends[number] - length)
        # Within a batch, samples are counted by their place in the stream, not by their row.
        for epoch in range(len(mine) // length):
            done = np.searchsorted(counts, (epoch + 1) * length)
            seen = np.bincount(mine[: counts[done]], minlength=length)
            assert seen.min() >= epoch + 1
            assert np.bincount(mine[: counts[done - 1]], minlength=length).max() <= epoch + 1


@pytest.mark.parametrize('hosts', [1, 4])
def test_hosts_share_the_batch_and_a_start_anywhere_changes_nothing(hosts):
    settings = {'batch_size': 32, 'weights': (2.0, 1.0)}
    whole = batches(order_of(UNEQUAL, (30, 40), **settings), 16)
    rows = np.arange(32).reshape(hosts, -1)
    for start in (0, 7, 15):
        fresh = order_of(UNEQUAL, (30, 40), **settings)
        parts = [batches(fresh, 16 - start, start, r) for r in rows]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[start:])


def test_seeds_and_epochs_differ():
    one, other = (batches(order_of(UNEQUAL, seed=s), 8).ravel() for s in (0, 1))
    assert (one != other).mean() > 0.9


def shard_of(order, indices):
    return np.searchsorted(np.cumsum(order.shards[0]), indices, side='right')


def test_a_step_reads_only_the_shards_of_its_windows():
    """With fetches ahead, few windows are held at any time, and the next one is always among them."""
    order = order_of(tuple(np.random.default_rng(0).integers(20, 60, 60).tolist()), batch_size=16)
    steps, held = 400, []
    seen: set[int] = set()
    for step in range(steps):
        addresses = window.needed(
            order, step, range(order.streams), start_step=0, total_steps=steps
        )
        files = {n for address in addresses for n in order.files(address)}
        used = set(shard_of(order, window.batch_indices(order, step, np.arange(16))).tolist())
        assert used <= files
        assert step == 0 or used <= seen  # nothing is read that was not asked for a step before
        assert len(addresses) <= 2 * order.streams
        seen = files
        held.append(len(files))
    assert max(held) <= order.streams * 2 * (order.window_shards + 1)
    sizes = [list(order.shards[0])]
    bound = window.most_bytes(order, range(order.streams), sizes, [3])
    assert bound < sum(sizes[0])
    for step in range(steps):
        addresses = window.needed(
            order, step, range(order.streams), start_step=0, total_steps=steps
        )
        files = {n for address in addresses for n in order.files(address)}
        assert sum(sizes[0][n] for n in files) <= bound


def test_nothing_before_the_start_or_behind_the_end_is_asked_for():
    order = order_of((50,) * 40)
    at = {'start_step': 30, 'total_steps': 31}
    addresses = window.needed(order, 30, [0, 1], **at)
    read = window.batch_indices(order, 30, np.arange(12))
    files = {n for address in addresses for n in order.files(address)}
    assert {a.stream for a in addresses} == {0, 1}
    assert len(addresses) == 2
    assert set(shard_of(order, read).tolist()) <= files


def test_a_window_mixes_its_shards_evenly():
    """Within a window, the places of a shard's records are those of a random permutation."""
    order = order_of((200,) * 64, batch_size=32, streams=4, window_shards=4)
    epoch = batches(order, 400).reshape(400, 4, 8).transpose(1, 0, 2).reshape(4, -1)
    for stream in epoch:
        count = int(order.epoch(0, 0).windows[0])
        for part in np.array_split(stream, count):
            shard = shard_of(order, part)
            for number in np.unique(shard):
                places = np.flatnonzero(shard == number) / len(part)
                if len(places) == 200:  # a whole shard: uniform over the window, mean 1/2
                    assert abs(places.mean() - 0.5) < 5 * (1 / 12 / 200) ** 0.5
                    assert places.std() == pytest.approx((1 / 12) ** 0.5, rel=0.25)
        neighbours = np.abs(np.diff(stream)) == 1
        assert neighbours.mean() < 0.01


def test_a_far_step_costs_nothing():
    lengths = tuple(np.random.default_rng(1).integers(8000, 9500, 1243).tolist())
    order = order_of(lengths, batch_size=4096, streams=16, window_shards=4)
    step = 10**8
    drawn = window.batch_indices(order, step, np.arange(4096))
    assert len(set(drawn.tolist())) > 4000
    windows = window.needed(order, step, range(16), start_step=step, total_steps=step + 10)
    assert {a.stream for a in windows} == set(range(16))


def test_a_weight_without_a_sample_in_a_stream_is_named():
    with pytest.raises(UserError, match=r'weight 0\.01'):
        batches(order_of(UNEQUAL, UNEQUAL, weights=(1.0, 0.01)), 1)
