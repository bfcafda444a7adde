"""prepare --out=gs://...: prepared on the local disk, copied, metadata last, and resumed."""

import corpus
import fake_gcs
import pytest
from programs import load_program, run_program

from input_pipeline import sources, upload
from pgs.errors import UserError

load_program('input_pipeline.prepare')


@pytest.fixture(scope='module')
def tar(tmp_path_factory):
    path = tmp_path_factory.mktemp('tars') / '00000.tar'
    corpus.good_tar(path, 4)
    return path


@pytest.fixture
def bucket(cloud):
    fake_gcs.reset()
    return cloud


def prepare(tar, out, *more):
    flags = [f'--source={tar}', f'--out={out}', '--workers=1', *more]
    run_program('input_pipeline.prepare', *flags)


def test_a_data_set_is_prepared_and_copied_with_its_metadata_last(bucket, tar, tmp_path, capsys):
    scratch = tmp_path / 'scratch'
    prepare(tar, 'gs://bucket/sets/mine', f'--scratch={scratch}')
    shown = capsys.readouterr().out
    (scratch / upload.NOTES).unlink()
    assert f'Prepares in {scratch}, then copies to gs://bucket/sets/mine' in shown
    assert '--config.data.dir=gs://bucket/sets/mine --config.data.shuffle=window' in shown
    files = {path.name: path.read_bytes() for path in scratch.iterdir() if path.is_file()}
    assert {f'sets/mine/{n}': c for n, c in files.items()} == {
        name: content for name, (_, content) in bucket.objects.items()
    }
    last = max(bucket.objects, key=lambda name: bucket.objects[name][0])
    assert last == 'sets/mine/dataset_info.json'
    assert len(sources.open_folder('gs://bucket/sets/mine')) == 4


def test_an_interrupted_copy_goes_on(bucket, sharded, monkeypatch):
    copied = []

    def copy(path, address, copy=upload.copy):
        if len(copied) == 5:
            raise KeyboardInterrupt
        copied.append(path.name)
        return copy(path, address)

    with monkeypatch.context() as patch:
        patch.setattr(upload, 'UPLOADS', 1)
        patch.setattr(upload, 'copy', copy)
        with pytest.raises(KeyboardInterrupt):
            upload.upload(sharded, 'gs://bucket/again')
    assert 'again/dataset_info.json' not in bucket.objects
    before = dict(bucket.objects)
    assert len(before) == 5
    bucket.faults[:] = ['busy', 'cut']
    assert upload.upload(sharded, 'gs://bucket/again/') == 14 - 5
    assert {name: bucket.objects[name] for name in before} == before  # not written again
    names = [p.name for p in sharded.iterdir() if p.name != upload.NOTES]
    local = {f'again/{name}': (sharded / name).read_bytes() for name in names}
    assert local == {name: content for name, (_, content) in bucket.objects.items()}
    assert upload.upload(sharded, 'gs://bucket/again') == 1
    (sharded / upload.NOTES).unlink()  # another preparation's copies may have the same sizes
    assert upload.upload(sharded, 'gs://bucket/again') == 14
    (sharded / upload.NOTES).unlink()


@pytest.mark.parametrize(
    ('out', 'words'),
    [
        ('gs://no-such-bucket/mine', 'the bucket gs://no-such-bucket does not exist'),
        ('s3://bucket/mine', 'only gs://BUCKET/FOLDER is supported'),
        ('gs://bucket', 'names no folder'),
    ],
)
def test_a_bucket_that_cannot_be_written_is_named_before_the_work(
    bucket, tar, tmp_path, out, words
):
    with pytest.raises(UserError, match=words) as error:
        prepare(tar, out, f'--scratch={tmp_path / "scratch"}')
    assert out in str(error.value)
    assert not (tmp_path / 'scratch').exists()


def test_no_credentials_are_one_line(bucket, tar, tmp_path):
    bucket.refused = 401
    with pytest.raises(UserError, match=r'--out=gs://bucket/mine: access is denied .* log in with'):
        prepare(tar, 'gs://bucket/mine', f'--scratch={tmp_path / "scratch"}')


@pytest.mark.parametrize(
    ('name', 'words'),
    [('x.txt', 'other files, such as x.txt'), ('dataset_info.json', 'another data set')],
)
def test_a_folder_with_something_else_is_left_alone(bucket, sharded, name, words):
    bucket.objects[f'taken-{name}/{name}'] = 1, b'mine'
    with pytest.raises(UserError, match=words):
        upload.upload(sharded, f'gs://bucket/taken-{name}')
    assert list(bucket.objects) == [f'taken-{name}/{name}']


def test_scratch_is_for_buckets(tar, tmp_path):
    with pytest.raises(UserError, match='--scratch is for --out=gs://'):
        prepare(tar, tmp_path / 'out', f'--scratch={tmp_path}')
