"""Batches: a function of seed and step, the same on one host and on many."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base, quickstart
from input_pipeline import pipeline
from input_pipeline.tokenizer import END_OF_TEXT, tokenize
from pgs.errors import UserError

SETTINGS = {
    'seed': 7, 'batch_size': 8, 'total_steps': 6, 'image_size': 32, 'context_length': 24,
    'crop_scale': (0.9, 1.0),
}  # fmt: skip


def batches(source, **changes):
    return list(pipeline.train_batches(source, **({'start_step': 0} | SETTINGS | changes)))


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


def test_a_resumed_stream_goes_on_where_it_was(train_source):
    assert_equal(batches(train_source)[4:], batches(train_source, start_step=4))


@pytest.mark.parametrize('hosts', [2, 4, 8])
def test_many_hosts_make_the_same_global_batch(train_source, hosts):
    whole = batches(train_source, total_steps=2)
    parts = [
        batches(train_source, total_steps=2, process_index=i, process_count=hosts)
        for i in range(hosts)
    ]
    for step, batch in enumerate(whole):
        for name in ('images', 'tokens'):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


def test_image_and_caption_stay_together():
    """Each image is one grey level, each caption its number."""
    import io

    from PIL import Image

    class Source(list):
        def __getitems__(self, ids):
            return [self[i] for i in ids]

    def png(level):
        buffer = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(buffer, 'PNG')
        return buffer.getvalue()

    levels = range(0, 250, 10)
    source = Source(
        {'image': png(v), 'captions': [str(v).encode(), f'no {v}'.encode()]} for v in levels
    )
    forms = {tuple(tokenize([t.format(v)], 24)[0]): v for v in levels for t in ('{}', 'no {}')}
    seen = []
    for batch in batches(source, total_steps=10):
        for image, tokens in zip(batch['images'], batch['tokens'], strict=True):
            assert (image == forms[tuple(tokens)]).all()
            seen.append(tuple(tokens))
    assert len(set(seen)) > len(levels)  # both captions of an image come up


def test_evaluation_covers_the_split_once_and_pads(train_source):
    source = pipeline.open_source(quickstart.get_config().data, 'validation')
    found = list(pipeline.eval_batches(source, batch_size=100, image_size=32, context_length=24))
    assert [int(b['real'].sum()) for b in found] == [100, 100, 100, 100, 24]
    assert all(b['images'].shape == (100, 32, 32, 3) for b in found)
    tokens = np.concatenate([b['tokens'][b['real']] for b in found])
    assert len({tuple(t) for t in tokens}) == len(source) == 424


def test_an_absent_data_set_is_an_error_with_a_remedy(tmp_path):
    data = base.get_config().data
    data.dir = str(tmp_path)
    with pytest.raises(UserError, match=r"'cc12m'.*--config\.data\.name=openmoji"):
        pipeline.open_source(data, 'train')


def test_an_absent_split_is_named():
    data = quickstart.get_config().data
    with pytest.raises(UserError, match=r"no split 'test': it has .*train"):
        pipeline.open_source(data, 'test')


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    data = ConfigDict({'name': 'openmoji', 'cache_dir': str(tmp_path / 'file' / 'cache')})
    with pytest.raises(UserError, match=r'cache_dir=.*give a folder'):
        pipeline.open_source(data, 'train')
