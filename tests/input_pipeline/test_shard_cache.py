"""Copies of shards: fetched ahead, complete or absent, bounded, and deleted in any case."""

import threading
import time

import fake_gcs
import pytest
import tensorflow as tf

from input_pipeline import shard_cache, sources
from pgs.errors import UserError


@pytest.fixture
def files(cloud, sharded):
    """{address: records} of twelve shards in the bucket."""
    fake_gcs.reset()
    fake_gcs.fill(sharded, 'pairs')
    records = sources.open_folder(sharded)
    return {f'gs://bucket/pairs/{name}': length for name, length in records.shards.items()}


@pytest.fixture
def cache(files, tmp_path):
    cache = shard_cache.ShardCache(tmp_path / 'cache', files)
    yield cache
    cache.close()


def copies(folder):
    names = (path.name for path in folder.rglob('*array_record*'))
    return sorted(name for name in names if not name.endswith('.partial'))


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.01)


def test_shards_are_copied_ahead_and_deleted_when_they_are_done(cache, files, tmp_path, cloud):
    assert not (tmp_path / 'cache').exists()  # nothing is written before it is asked for
    names = list(files)
    cache.want(names[:3])
    wait_for(lambda: len(copies(tmp_path)) == 3)
    for file in names[:3]:
        assert cache.reader(file).num_records() == files[file]
    held = cache.reader(names[0])
    cache.want(names[2:4])
    assert cache.reader(names[3]).num_records()
    assert len(copies(tmp_path)) == 2
    assert len(held.read([0, 1])) == 2  # a reader in use outlives its file
    reads = [r for r in cloud.requests if r.kind == 'read']
    assert len(reads) == 4  # one a shard, below 64 MiB
    assert cache.reader(names[9]).num_records() == files[names[9]]  # not asked for before
    cache.close()
    assert list((tmp_path / 'cache').iterdir()) == []
    with pytest.raises(UserError, match='the reading has ended'):
        cache.reader(names[11])


@pytest.mark.parametrize('faults', [['busy'], ['cut', 'busy'], ['cut', 'cut', 'busy', 'cut']])
def test_a_busy_service_and_cut_connections_are_asked_again(cache, files, cloud, faults, tmp_path):
    cloud.faults[:] = faults
    file = next(iter(files))
    cache.reader(file)
    name = file.removeprefix('gs://bucket/')
    (copy,) = (tmp_path / 'cache').rglob('*array_record*')
    assert copy.read_bytes() == cloud.objects[name][1]
    assert [r.sent > 0 for r in cloud.requests if r.kind == 'read'] == [False] * len(faults) + [
        True
    ]


def test_after_all_of_tensorflows_attempts_the_shard_is_tried_again(
    cache, files, monkeypatch, capsys
):
    once = iter([tf.errors.UnavailableError(None, None, 'all attempts failed')])

    def copy(file, path, copy=shard_cache.copy):
        for error in once:
            raise error
        copy(file, path)

    monkeypatch.setattr(shard_cache, 'FIRST_DELAY', 0.01)
    monkeypatch.setattr(shard_cache, 'copy', copy)
    assert cache.reader(next(iter(files))).num_records()
    assert 'all attempts failed; again in 0 s' in capsys.readouterr().out


def test_a_file_that_is_cut_is_no_copy(tmp_path, files, cloud, monkeypatch):
    """The service gives fewer bytes than it says the object has."""
    described = fake_gcs.described
    monkeypatch.setattr(fake_gcs, 'described', lambda n, g, c: described(n, g, c + b'more'))
    file = list(files)[7]  # TensorFlow remembers the size of an object for five seconds
    with pytest.raises((OSError, tf.errors.InternalError), match=r'inconsistent|bytes were read'):
        shard_cache.copy(file, tmp_path / 'copy')
    assert not (tmp_path / 'copy').exists()


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda c, name: c.objects.pop(name), 'it does not exist'),
        (lambda c, name: setattr(c, 'refused', 403), r'access is denied \(HTTP 403\): log in with'),
        (
            lambda c, name: c.objects.update({name: (9, b'nothing of the kind' * 9999)}),
            'holds 0 records',
        ),
    ],
)
def test_a_shard_that_cannot_be_had_is_one_line(cache, files, cloud, damage, words):
    file = list(files)[5]
    damage(cloud, file.removeprefix('gs://bucket/'))
    with pytest.raises(UserError, match=words) as error:
        cache.reader(file)
    assert file in str(error.value)


def test_a_slow_fetch_holds_up_only_who_needs_it(cache, files, cloud):
    """And a shard that is no longer wanted leaves no copy behind."""
    names = list(files)
    cloud.rate = 100_000.0  # 1.3 s a shard
    cache.want(names[:1])
    done = []
    thread = threading.Thread(target=lambda: done.append(cache.reader(names[0])), daemon=True)
    thread.start()
    cache.want([])  # another step's call: it must not take away what a thread waits for
    time.sleep(0.3)
    assert not done
    thread.join(30)
    assert done
    cache.want([])
    assert copies(cache._folder.path) == []


def test_a_folder_that_cannot_be_written_is_one_line(files, tmp_path):
    (tmp_path / 'file').write_text('')
    cache = shard_cache.ShardCache(tmp_path / 'file' / 'cache', files)
    with pytest.raises(UserError, match=r'cannot write config\.data\.window_cache='):
        cache.want(list(files))
