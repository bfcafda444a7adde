"""Data in a bucket: opened natively, or read shard by shard through copies; the same batches."""

import itertools
import types

import fake_gcs
import numpy as np
import pytest

from configs import base
from input_pipeline import sources, windowed
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError
from pgs.run import skips
from pgs.run.data import open_data, training_batches
from pgs.train import train

STEPS = 8


@pytest.fixture
def bucket(cloud, sharded):
    """gs://bucket/data, a copy of the twelve shards."""
    fake_gcs.reset()
    fake_gcs.fill(sharded, 'data')
    return 'gs://bucket/data'


@pytest.fixture
def config(tmp_path):
    config = base.get_config()
    config.update(batch_size=16, total_steps=STEPS)
    config.data.update(name='pairs', shuffle='window', window_streams=4, window_shards=1)
    config.data.cache_dir = str(tmp_path / 'cache')
    config.model.image.update(image_size=16, patch_size=8)
    config.model.text.context_length = 8
    return config


def batches(config, folder, start=0, rows=None, stop=None):
    config = config.copy_and_resolve_references()
    config.data.dir = str(folder)
    data = open_data(config)
    found = training_batches(config, data, start, np.arange(16) if rows is None else rows)
    read = list(itertools.islice(found, stop))
    found.close()
    if data.cache is not None:
        data.cache.close()
    return read


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ('images', 'tokens'):
            np.testing.assert_array_equal(a[name], b[name])


def test_a_bucket_gives_the_batches_of_a_folder_on_any_hosts_from_any_step(
    config, sharded, bucket, tmp_path
):
    whole = batches(config, sharded)
    assert not (tmp_path / 'cache').exists()  # local shards are read where they are
    assert_equal(whole, batches(config, bucket))
    assert list((tmp_path / 'cache' / 'shards').iterdir()) == []
    for rows in (np.arange(8), np.arange(8, 16)):
        part = batches(config, bucket, start=5, rows=rows)
        mine = [{name: values[rows] for name, values in batch.items()} for batch in whole[5:]]
        assert_equal(part, mine)
    config.data.window_cache = str(tmp_path / 'copies')  # local shards are copied if asked
    assert_equal(whole, batches(config, sharded))
    assert list((tmp_path / 'copies').iterdir()) == []


def test_a_faulty_service_changes_no_batch(config, sharded, bucket, cloud):
    expected = batches(config, sharded, stop=3)
    data = sources.open_folder(bucket)  # so that the faults meet the shards
    assert len(data) == 306
    cloud.faults[:] = ['busy', 'cut', 'busy', 'cut']
    cloud.rate = 2_000_000.0
    assert_equal(expected, batches(config, bucket, stop=3))
    assert not cloud.faults


def test_a_mixture_of_a_bucket_and_a_folder(config, sharded, bucket):
    """Only the shards of the bucket are copied."""
    config.data.mixture = (('pairs', bucket, 1.0), ('pairs', str(sharded), 1.0))
    mixed = batches(config, sharded, stop=4)
    config.data.mixture = (('pairs', str(sharded), 1.0), ('pairs', str(sharded), 1.0))
    assert_equal(mixed, batches(config, sharded, stop=4))


def test_the_report_of_a_diverged_run_names_the_records_of_the_windows(config, sharded):
    config.data.dir = str(sharded)
    data = open_data(config)
    source = data.train[0][0]
    batch = next(training_batches(config, data, 4, np.arange(16)))
    named = skips.records_of(5, config, data.train)
    tokens = {source.location(i): source[i]['captions'][0].decode() for i in range(len(source))}
    expected = tokenize([tokens[place] for place in named], 8)
    np.testing.assert_array_equal(batch['tokens'], expected)


def test_an_epoch_needs_two_requests_a_shard_where_a_full_shuffle_needs_one_a_record(
    config, bucket, cloud
):
    config.update(batch_size=17, total_steps=18)  # 306 records: one epoch
    config.data.window_streams = 1
    counts, sizes = {}, {}
    for shuffle in ('full', 'window'):
        config.data.shuffle = shuffle
        cloud.requests.clear()
        assert len(batches(config, bucket, rows=np.arange(17))) == 18
        of_shards = [r for r in cloud.requests if 'array_record' in r.name]
        counts[shuffle] = len(of_shards)
        sizes[shuffle] = sum(r.sent for r in of_shards)
    assert counts['full'] >= 306
    assert counts['window'] <= 2 * 12  # a look for its size, and one read of up to 64 MiB
    whole = sum(len(c) for n, (_, c) in cloud.objects.items() if 'array_record' in n)
    assert sizes['window'] == whole
    assert sizes['full'] > 3 * whole
    print(counts, sizes)


@pytest.mark.slow
def test_a_run_reads_its_data_from_a_bucket(tiny_config, bucket, tmp_path):
    tiny_config.data.update(name='pairs', dir=bucket, shuffle='window', window_streams=8)
    tiny_config.data.cache_dir = str(tmp_path / 'cache')
    assert train(tiny_config, tmp_path / 'run')['step'] == tiny_config.total_steps
    assert list((tmp_path / 'cache' / 'shards').iterdir()) == []


@pytest.mark.parametrize(
    ('folder', 'refused', 'words'),
    [
        ('gs://no-such-bucket/data', 0, r'bucket gs://no-such-bucket does not exist'),
        ('gs://bucket/other', 0, r"no prepared data set in config\.data\.dir='gs://bucket/other'"),
        ('gs://bucket/data', 401, r'access is denied \(HTTP 401\): log in with'),
        ('gs://bucket/data', 403, r'role Storage Object User'),
        ('s3://bucket/data', 0, r'only gs://BUCKET/FOLDER is supported'),
        ('gs://', 0, r'names no bucket'),
    ],
)
def test_an_address_that_cannot_be_opened_is_one_line(
    config, bucket, cloud, folder, refused, words
):
    cloud.refused = refused
    config.data.dir = folder
    with pytest.raises(UserError, match=words) as error:
        sources.open_train(config.data)
    assert folder in str(error.value)


def records_of(folder):
    return [(sources.open_folder(folder), 1.0)]


def test_a_disk_too_small_for_the_windows_is_named(config, bucket, monkeypatch):
    train_data = records_of(bucket)
    windowed.check_disk(config, train_data, None, np.arange(16))
    few = types.SimpleNamespace(free=10_000)
    monkeypatch.setattr('shutil.disk_usage', lambda path: few)
    with pytest.raises(UserError, match=r'has 1e-05 GB free, but two windows of 4 streams take'):
        windowed.check_disk(config, train_data, None, np.arange(16))
    few.free = 10**9
    config.data.window_cache_gb = 1e-5
    with pytest.raises(UserError, match=r'config\.data\.window_cache_gb=1e-05, but .* lower'):
        windowed.check_disk(config, train_data, None, np.arange(16))
    config.data.shuffle = 'full'
    windowed.check_disk(config, train_data, None, np.arange(16))


def test_streams_that_the_processes_do_not_divide_are_named(config):
    rows = list(np.arange(16).reshape(2, 8))
    windowed.check_streams(config, rows)
    config.data.window_streams = 1
    with pytest.raises(UserError, match=r'window_streams=1 cannot be .* 2 processes.* 2, 4, 8'):
        windowed.check_streams(config, rows)
    config.data.window_streams = 4
    apart = [np.array([0, 1, 4, 5, 8, 9, 12, 13]), np.array([2, 3, 6, 7, 10, 11, 14, 15])]
    with pytest.raises(UserError, match=r'take one of 8, 16'):  # of a mesh that follows the wiring
        windowed.check_streams(config, apart)
