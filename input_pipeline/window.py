"""The window shuffle: which records a batch holds if shards are to be read whole, one after another.

As in `sampler`, a batch is a pure function of (seed, step), each record occurs once in each epoch,
and a run may start at any step. Here a process needs few files at a time: at any step the records of
a stream come from one window, which is the records of about `window_shards` shards.

**Streams.** A batch of B rows is cut into K streams of b = B / K consecutive rows each, whatever the
number of processes; a process reads the streams of its rows.

**Shares.** Let c_s be the sum of the shares of the sources 0 to s, and A_s(t) = floor(c_s t B), as in
`sampler`: A_s(t) - A_(s-1)(t) samples of the first t batches are of source s. Of these, stream k has
taken

    T_sk(t) = floor((A_s(t) + k) / K) - floor((A_(s-1)(t) + k) / K).

The sum of floor((x + k) / K) over k = 0 to K - 1 is x, for any integer x. So the streams' numbers
add up to the source's, and those of a stream's sources to t b. Within its rows of a batch, a stream
takes its sources in an order that is permuted by (seed, step, stream).

**Epochs.** The samples of a source are counted by batch, then stream, then place in the stream.
Epoch e of a source with N records is its samples eN to (e + 1)N - 1, so that it ends within a batch
where N asks for it. F_k(e) is how many of the samples before eN are stream k's: the stream has
C_k = F_k(e + 1) - F_k(e) samples in epoch e, and these numbers add up to N.

**Records.** In each epoch the shards of a source are permuted by (seed, epoch, source) and laid end
to end: a line of N records. Stream 0 has the first C_0 of them, stream 1 the next C_1, and so on; a
shard in which one stream ends and the next begins is read by both. Each stream's part is cut into
windows of equal length (give or take one record), which are taken one after another, and whose
records are permuted by (seed, epoch, source, stream, window). Shards of any lengths fit.

All of this is integers and the permutations of `sampler.permuted`. Nothing is carried from one step
to the next.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from input_pipeline import sampler

MARGIN = 2  # batches before a step whose reads may still go on
SHARDS_KEY = -2  # third number of the key that permutes the shards of source 0; of source 1: -3
SLOTS_KEY = -1000  # of the sources within the rows of stream 0; of stream 1: -1001


class Address(NamedTuple):
    """A window: its number within a stream's part of an epoch of a source."""

    source: int
    stream: int
    epoch: int
    window: int


class Epoch(NamedTuple):
    """One epoch of a source.

    Attributes:
      shards: int64 (S,), numbers of the shards in the order of the line.
      line: int64 (S + 1,), where each of them begins on the line, and its end.
      starts: int64 (K,), F_k: the samples that each stream has taken when the epoch begins.
      cuts: int64 (K + 1,), where each stream's part of the line begins, and its end.
      windows: int64 (K,), number of windows of each stream; 0 where it has no record.
    """

    shards: np.ndarray
    line: np.ndarray
    starts: np.ndarray
    cuts: np.ndarray
    windows: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The order of all samples of a run.

    Attributes:
      seed: of the run.
      batch_size: B, of the global batch; a multiple of `streams`.
      streams: K.
      window_shards: number of shards whose records are permuted together.
      shards: for each source, the number of records of each of its shards.
      weights: share of each source, on any positive scale; at least one sample a stream and batch.
    """

    seed: int
    batch_size: int
    streams: int
    window_shards: int
    shards: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...] = (1.0,)

    @property
    def rows(self) -> int:
        """b: rows of a batch in a stream."""
        return self.batch_size // self.streams

    @functools.cached_property
    def lengths(self) -> list[int]:
        """N: records of each source."""
        return [sum(lengths) for lengths in self.shards]

    @functools.cached_property
    def cumulated(self) -> np.ndarray:
        """Sums of the shares before each source, and 1."""
        shares = sampler.batch_shares(self.weights, self.rows)
        sums = np.concatenate([[0.0], np.cumsum(shares)])
        sums[-1] = 1.0
        return sums

    def taken(self, source: int, step: int) -> np.ndarray:
        """T_sk: samples of a source that each stream takes before a step; int64 (K,)."""
        samples = step * self.batch_size
        below, above = (int(c * samples) for c in self.cumulated[source : source + 2])
        streams = np.arange(self.streams)
        return (above + streams) // self.streams - (below + streams) // self.streams

    def starts(self, source: int, epoch: int) -> np.ndarray:
        """F_k: samples of a source that each stream takes before an epoch of it; int64 (K,)."""
        return _starts(self, source, epoch)

    def epoch(self, source: int, number: int) -> Epoch:
        """An epoch of a source."""
        return _epoch(self, source, number)

    def bounds(self, address: Address) -> tuple[int, int]:
        """Where a window begins and ends on the line of its epoch."""
        epoch = self.epoch(address.source, address.epoch)
        first, end = epoch.cuts[address.stream : address.stream + 2].tolist()
        count = int(epoch.windows[address.stream])
        low, high = (i * (end - first) // count for i in (address.window, address.window + 1))
        return first + low, first + high

    def files(self, address: Address) -> list[int]:
        """The shards that hold a window, by number within their source."""
        epoch = self.epoch(address.source, address.epoch)
        low, high = self.bounds(address)
        first = np.searchsorted(epoch.line, low, side='right') - 1
        numbers = epoch.shards[first : np.searchsorted(epoch.line, high)].tolist()
        return [n for n in numbers if self.shards[address.source][n]]


@functools.lru_cache(maxsize=1024)
def _starts(order: Order, source: int, epoch: int) -> np.ndarray:
    first = epoch * order.lengths[source]
    share = order.cumulated[source + 1] - order.cumulated[source]
    step = int(first / (share * order.batch_size))
    while order.taken(source, step).sum() > first:
        step -= 1
    while order.taken(source, step + 1).sum() <= first:
        step += 1
    before, after = order.taken(source, step), order.taken(source, step + 1)
    places = np.cumsum(after - before) - (after - before)
    return before + np.clip(first - before.sum() - places, 0, after - before)


@functools.lru_cache(maxsize=64)
def _epoch(order: Order, source: int, number: int) -> Epoch:
    lengths = np.array(order.shards[source], np.int64)
    key = (order.seed, number, SHARDS_KEY - source)
    shards = permuted(np.arange(len(lengths)), np.tile(key, (len(lengths), 1)), len(lengths))
    starts = order.starts(source, number)
    counts = order.starts(source, number + 1) - starts
    # As many windows as a stream has shards for, each of them longer than the batches that may be
    # read at once.
    records, batch = lengths.sum(), order.taken(source, 1).max() + 1
    windows = np.rint(counts * len(lengths) / (records * order.window_shards)).astype(np.int64)
    windows = np.maximum(np.minimum(windows, counts // (batch * (MARGIN + 1))), counts > 0)
    line, cuts = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths[shards], counts))
    return Epoch(shards, line, starts, cuts, windows)


def permuted(positions: np.ndarray, keys: np.ndarray, sizes: np.ndarray | int) -> np.ndarray:
    """`sampler.permuted` of numbers: int64 (n,), with keys (n, 3)."""
    sizes = np.broadcast_to(np.asarray(sizes, np.int64), positions.shape)
    return sampler.permuted(positions.astype(np.int64), keys.astype(np.int64), sizes).numpy()


def batch_indices(order: Order, step: int, rows: np.ndarray) -> np.ndarray:
    """The records of some rows of the global batch of a step.

    Args:
      order: of the run.
      step: >= 0.
      rows: int64 (n,), each in [0, B).

    Returns:
      int64 (n,): indices into the concatenated sources, whose shards are in their own order.
    """
    stream, slot = rows // order.rows, rows % order.rows
    if len(order.shards) > 1:
        keys = [np.full_like(rows, order.seed), np.full_like(rows, step), SLOTS_KEY - stream]
        slot = permuted(slot, np.stack(keys, axis=1), order.rows)
    indices = np.empty_like(rows)
    offset, first = (
        0,
        np.zeros(order.streams, np.int64),
    )  # of a source: records before, slots before
    for source, length in enumerate(order.lengths):
        before, after = order.taken(source, step), order.taken(source, step + 1)
        end = first + after - before
        mine = (slot >= first[stream]) & (slot < end[stream])
        k, place = stream[mine], (slot - first[stream])[mine]
        samples = before.sum() + (np.cumsum(after - before) - (after - before))[k] + place
        epochs, found = samples // length, np.empty_like(samples)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = _records(order, source, epoch, k[here], (before[k] + place)[here])
        indices[mine] = offset + found
        offset, first = offset + length, end
    return indices


def _records(
    order: Order, source: int, number: int, stream: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """Records of a source that samples of streams, all in one epoch, are; all int64 (n,)."""
    epoch = order.epoch(source, number)
    first, counts, windows = epoch.cuts[stream], np.diff(epoch.cuts)[stream], epoch.windows[stream]
    position = sample - epoch.starts[stream]
    window = ((position + 1) * windows - 1) // counts
    low, high = window * counts // windows, (window + 1) * counts // windows
    third = (source * 8191 + stream) * 65537 + window
    keys = np.stack([np.full_like(third, order.seed), np.full_like(third, number), third], axis=1)
    place = first + low + permuted(position - low, keys % 2**32, high - low)
    at = np.searchsorted(epoch.line, place, side='right') - 1
    before = np.cumsum([0, *order.shards[source][:-1]])
    return before[epoch.shards[at]] + place - epoch.line[at]


def needed(
    order: Order, step: int, streams: Sequence[int], *, start_step: int, total_steps: int
) -> list[Address]:
    """The windows that a process has to hold when it reads the batch of a step.

    Args:
      order: of the run.
      step: >= start_step.
      streams: of the process.
      start_step, total_steps: nothing is read for earlier steps than the first, nor from the second
        on.

    Returns:
      The windows of this batch and of the MARGIN batches before it, then the following window of
      each stream that has one window so far.
    """
    now: list[Address] = []
    ahead: list[Address] = []
    for source in range(len(order.shards)):
        first = order.taken(source, max(step - MARGIN, start_step))
        last, end = order.taken(source, step + 1), order.taken(source, total_steps)
        for stream in streams:
            windows = windows_from(order, source, stream, int(first[stream]))
            for number, (start, address) in enumerate(windows):
                if start >= end[stream] or (start >= last[stream] and number > 1):
                    break
                (now if start < last[stream] else ahead).append(address)
    return now + ahead


def windows_from(
    order: Order, source: int, stream: int, sample: int
) -> Iterator[tuple[int, Address]]:
    """The windows of a stream, from the one that holds its sample `sample` of a source on.

    Yields:
      (first sample of the window, its address).
    """
    number = sample * order.streams // order.lengths[source]  # about
    while number and order.starts(source, number)[stream] > sample:
        number -= 1
    while True:
        epoch = order.epoch(source, number)
        start, windows = int(epoch.starts[stream]), int(epoch.windows[stream])
        count = int(epoch.cuts[stream + 1] - epoch.cuts[stream])
        for window in range(windows):
            if start + (window + 1) * count // windows > sample:
                first = start + window * count // windows
                yield first, Address(source, stream, number, window)
        number += 1


def most_bytes(
    order: Order, streams: Sequence[int], sizes: Sequence[Sequence[int]], epochs: Sequence[int]
) -> int:
    """The largest size of the shards that a process holds at once.

    Args:
      order: of the run.
      streams: of the process.
      sizes: of the shards of each source, bytes.
      epochs: of each source, that are looked at, from the first one on.

    Returns:
      Bytes of two windows that follow each other, the largest of each source and stream, added up;
      at most those of all shards.
    """
    most = 0
    for source, of_shards in enumerate(sizes):
        for stream in streams:
            pairs = [0]
            before: set[int] = set()
            for _, address in windows_from(order, source, stream, 0):
                if address.epoch >= epochs[source]:
                    break
                files = set(order.files(address))
                pairs.append(sum(of_shards[n] for n in before | files))
                before = files
            most += max(pairs)
    return min(most, sum(sum(of_shards) for of_shards in sizes))
