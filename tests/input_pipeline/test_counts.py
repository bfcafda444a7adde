"""What prepare reads is counted apart from what it decides, so that a lost sample is noticed."""

import corpus
import pytest

from input_pipeline import preparation, prepared_report, worker
from input_pipeline.raw import tar_samples, url_rows
from input_pipeline.raw.reader import Reader
from input_pipeline.raw.samples import Shard
from pgs.errors import UserError

IMAGE = corpus.encoded(corpus.photo(0, (20, 20)))


def good_tar(path, count=4):
    corpus.write_tar(path, [m for i in range(count) for m in corpus.pair(f'{i:09}', IMAGE)])
    return Shard(str(path))


def loses_a_sample(samples):
    yield from (s for i, s in enumerate(samples) if i != 1)


def loses_a_member(samples):
    yield from (s._replace(members=1) if i == 1 else s for i, s in enumerate(samples))


def repeats_a_sample(samples):
    for sample in samples:
        yield from (sample, sample._replace(members=0))


@pytest.mark.parametrize(
    ('fault', 'words'),
    [
        (loses_a_sample, '4 samples were read, but 3 are accounted for'),
        (loses_a_member, '12 members were read, but 11 are accounted for'),
        (repeats_a_sample, '4 samples were read, but 8 are accounted for'),
    ],
)
def test_a_lost_sample_stops_the_preparation(tmp_path, monkeypatch, fault, words):
    shard = good_tar(tmp_path / '0.tar')
    out = tmp_path / 'out'
    (out / worker.STATE).mkdir(parents=True)
    real = tar_samples.tar_samples
    monkeypatch.setattr(worker, '_read', lambda *args: fault(real(*args)))
    with pytest.raises(UserError, match=words):
        worker.prepare_shard(shard, 0, 1, str(out), None)
    assert [p for p in out.rglob('*') if p.is_file()] == []
    monkeypatch.setattr(worker, '_read', real)
    report = worker.prepare_shard(shard, 0, 1, str(out), None)
    assert (report['present'], report['kept']) == (4, 4)
    assert (report['members'], report['ignored'], report['cut']) == (12, 4, None)


def test_a_tsv_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, '_read', Reader('url', str(tmp_path)).open())
    path = tmp_path / 'pairs.tsv'
    path.write_text('http://a.example/1.jpg\ta\n' * 3)
    (shard,) = url_rows.tsv_shards(path)
    path.write_text('http://a.example/1.jpg\ta\n' * 2)
    (tmp_path / 'out' / worker.STATE).mkdir(parents=True)
    with pytest.raises(UserError, match='3 rows were read, but 2 are accounted for'):
        worker.prepare_shard(shard, 0, 1, str(tmp_path / 'out'), None)


def test_what_lies_behind_a_cut_is_called_unknown(tmp_path):
    """In report.json and on the console, with the place."""
    good_tar(tmp_path / '0.tar', 8)
    content = (tmp_path / '0.tar').read_bytes()
    (tmp_path / '0.tar').write_bytes(content[: len(content) // 2])
    out = tmp_path / 'out'
    (out / worker.STATE).mkdir(parents=True)
    report = worker.prepare_shard(Shard(str(tmp_path / '0.tar')), 0, 1, str(out), None)
    result = preparation.finish(out, [report], [])
    (cut,) = result['cut_shards']
    assert result['present'] == result['kept'] + 1 == cut['samples']
    assert 0 < cut['intact_bytes'] <= cut['bytes'] == len(content) // 2
    console = prepared_report.describe(result, str(out))
    assert f'is damaged after byte {cut["intact_bytes"]} of {cut["bytes"]}' in console
    assert 'what is behind is in no count' in console


def test_the_sum_over_the_shards_is_checked(tmp_path):
    (tmp_path / worker.STATE).mkdir()
    shard = {'present': 3, 'kept': 2, 'dropped': {}, 'members': 6, 'ignored': 0, 'bytes': 1}
    with pytest.raises(UserError, match='3 samples were read, but 2 kept and 0 dropped'):
        preparation.finish(tmp_path, [shard | {'samples': [], 'cut': None}], [])
