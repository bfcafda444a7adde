"""Batches: a function of seed and step, the same on one host and on many."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from input_pipeline import pipeline
from input_pipeline.tokenizer import END_OF_TEXT, tokenize
from pgs.errors import UserError

SETTINGS = {
    'seed': 7,
    'batch_size': 8,
    'total_steps': 6,
    'image_size': 32,
    'context_length': 24,
    'crop_scale': (0.9, 1.0),
}


class ListSource(list):
    """Records in memory."""

    def __getitems__(self, ids):
        return [self[i] for i in ids]


def batches(source, **changes):
    sources = source if isinstance(source, list) else [(source, 1.0)]
    return list(pipeline.train_batches(sources, **({'start_step': 0} | SETTINGS | changes)))


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ('images', 'tokens'):
            np.testing.assert_array_equal(a[name], b[name])


def test_shapes_and_types(train_source):
    for batch in batches(train_source):
        assert batch['images'].shape == (8, 32, 32, 3)
        assert batch['images'].dtype == np.uint8
        assert batch['tokens'].shape == (8, 24)
        assert batch['tokens'].dtype == np.int32
        assert (batch['tokens'].max(axis=1) == END_OF_TEXT).all()


def test_same_seed_same_batches_other_seed_others(train_source):
    first = batches(train_source)
    assert_equal(first, batches(train_source))
    other = batches(train_source, seed=8)
    assert (first[0]['tokens'] != other[0]['tokens']).any()


def test_a_resumed_stream_continues(train_source):
    assert_equal(batches(train_source)[4:], batches(train_source, start_step=4))


@pytest.mark.parametrize('hosts', [2, 4, 8])
def test_many_hosts_make_the_same_global_batch(train_source, hosts):
    whole = batches(train_source, total_steps=2)
    # A mesh may give a host rows that are not adjacent.
    rows = [np.arange(SETTINGS['batch_size'])[i::hosts] for i in range(hosts)]
    parts = [batches(train_source, total_steps=2, rows=r) for r in rows]
    for step, batch in enumerate(whole):
        for name in ('images', 'tokens'):
            joined = np.empty_like(batch[name])
            for row, part in zip(rows, parts, strict=True):
                joined[row] = part[step][name]
            np.testing.assert_array_equal(joined, batch[name])


def test_image_and_caption_stay_together():
    """Each image is one grey level, each caption its number."""

    def png(level):
        buffer = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(buffer, 'PNG')
        return buffer.getvalue()

    levels = range(0, 250, 10)
    source = ListSource(
        {'image': png(v), 'captions': [str(v).encode(), f'no {v}'.encode()]} for v in levels
    )
    forms = {tuple(tokenize([t.format(v)], 24)[0]): v for v in levels for t in ('{}', 'no {}')}
    seen = []
    for batch in batches([(source, 1.0)], total_steps=10):
        for image, tokens in zip(batch['images'], batch['tokens'], strict=True):
            assert (image == forms[tuple(tokens)]).all()
            seen.append(tuple(tokens))
    assert len(set(seen)) > len(levels)  # both captions of an image occur


class Synthetic:
    """An index of any length; every record is the same small image."""

    def __init__(self, length):
        buffer = io.BytesIO()
        Image.new('RGB', (32, 32)).save(buffer, 'JPEG')
        self._length, self._image = length, buffer.getvalue()
        self.read = []

    def __len__(self):
        return self._length

    def __getitems__(self, ids):
        self.read.extend(ids)
        return [{'image': self._image, 'captions': [str(i).encode()]} for i in ids]


def test_resuming_at_step_80000_of_12_million_reads_nothing_else():
    """Checks that no other batch is read, which is why the start takes less than a second."""
    settings = SETTINGS | {'batch_size': 4096, 'total_steps': 80_002, 'rows': np.arange(256)}
    seconds = {}
    for start in (0, 80_000):
        source = Synthetic(12_000_000)
        clock = time.perf_counter()
        batch = next(pipeline.train_batches([(source, 1.0)], start_step=start, **settings))
        seconds[start] = time.perf_counter() - clock
        assert batch['images'].shape[0] == 256
        assert len(source.read) <= 8 * 256  # this batch, and a few ahead
    print('seconds to the first batch, by the step to start at:', seconds)


def test_a_mixture_reads_from_all(train_source):
    other = Synthetic(10)
    mixed = batches([(train_source, 3.0), (other, 1.0)], total_steps=8)
    black = sum(int((b['images'].max(axis=(1, 2, 3)) == 0).sum()) for b in mixed)
    assert black == len(other.read) == 16  # a quarter of 64


def test_the_error_of_a_source_is_raised_unchanged(train_source):
    class Broken(Synthetic):
        def __getitems__(self, ids):
            raise UserError('cannot read record 3 of FILE')

    with pytest.raises(UserError, match='cannot read record 3 of FILE'):
        batches([(Broken(10), 1.0)])
