"""Preparing data: every sample is counted, interruptions lose nothing, nothing is written outside."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import corpus
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from configs import base
from input_pipeline import crops, images, preparation, sources, word_counts
from input_pipeline.raw import tar_samples, url_rows
from input_pipeline.validate import MAX_PIXELS, REASONS
from pgs.errors import UserError

ROOT = Path(__file__).parents[2]


def run(source, out, **options):
    return preparation.prepare(str(source), str(out), **({'workers': 1} | options))


def data_of(out):
    data = base.get_config().data
    data.update(name='pairs', dir=str(out))
    return data


def dropped(out):
    return [json.loads(line) for line in (out / 'dropped.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def nasty(tmp_path_factory):
    """A tar with every kind of sample, a good one and one that is cut in the middle, prepared."""
    folder = tmp_path_factory.mktemp('nasty')
    members, reasons, kept = corpus.nasty_members()
    corpus.write_tar(folder / '00000.tar', members)
    corpus.good_tar(folder / '00001.tar', 5)
    corpus.good_tar(folder / '00003.tar', 8, first=100)
    content = (folder / '00003.tar').read_bytes()
    (folder / '00003.tar').write_bytes(content[: len(content) // 2])
    before = sorted(str(p) for p in folder.parent.rglob('*'))
    out = folder / 'out'
    report = run(folder / '{00000..00003}.tar', out)
    return folder, out, report, reasons, kept, before


def test_every_sample_is_counted(nasty):
    folder, out, report, reasons, kept, _ = nasty
    assert report['present'] == report['kept'] + report['dropped'] == len(reasons) + len(kept) + 10
    assert report['members'] > report['present'] + report['ignored_members']
    pairs = [(d['key'], d['reason']) for d in dropped(out) if d['shard'].endswith('00000.tar')]
    assert sorted(pairs) == sorted(reasons)
    cut = [d for d in dropped(out) if d['shard'].endswith('00003.tar')]
    assert [d['reason'] for d in cut] == ['shard_cut']
    complete_before_cut = report['kept'] - len(kept) - 5
    assert 1 <= complete_before_cut < 8
    assert report['dropped_by_reason']['shard_cut'] == 1
    assert set(report['dropped_by_reason']) <= set(REASONS)
    assert report['missing_shards'] == [str(folder / '00002.tar')]
    assert json.loads((out / 'report.json').read_text()) == report


def test_a_reader_sees_each_kept_sample_once(nasty):
    _, out, report, _, kept, _ = nasty
    ((source, _),) = sources.open_train(data_of(out))
    assert len(source) == report['kept']
    keys = [source[i]['key'].decode() for i in range(len(source))]
    assert len(set(keys)) == len(keys)
    assert keys[: len(kept)] == kept
    assert keys[len(kept) : len(kept) + 5] == [f'{i:09}' for i in range(5)]


def test_words_are_counted(nasty):
    """The same file as a run writes that counts the words itself."""
    _, out, _, _, _, _ = nasty
    path = out / 'word_counts_train.json'
    prepared = path.read_bytes()
    ((source, _),) = sources.open_train(data_of(out))
    assert word_counts.read(source)['words'] > len(source)
    path.unlink()
    assert word_counts.count(source)['counts']
    assert path.read_bytes() == prepared


def test_training_on_it_never_fails(nasty):
    """TensorFlow decodes, crops and resizes every kept sample."""
    _, out, _, _, _, _ = nasty
    ((source, _),) = sources.open_train(data_of(out))
    for record in source.__getitems__(list(range(len(source)))):
        size = images.image_size(record['image'])
        box = crops.crop_boxes([size], np.full((1, crops.DRAWS), 0.5), (0.9, 1.0))[0]
        view = crops.cropped([record['image']], [box], image_size=32)
        assert view.shape == (1, 32, 32, 3)
        assert bool(tf.io.is_jpeg(record['image']))
        assert record['captions'][0].decode().strip()


def test_nothing_is_written_outside(nasty):
    folder, out, _, _, _, before = nasty
    after = sorted(str(p) for p in folder.parent.rglob('*'))
    assert [p for p in after if p not in before and not p.startswith(str(out))] == []
    assert not list(out.rglob('*.partial'))
    assert not Path('/absolute.jpg').exists()


def pixels(out, key):
    ((source, _),) = sources.open_train(data_of(out))
    for i in range(len(source)):
        if source[i]['key'].decode() == key:
            return np.asarray(Image.open(io.BytesIO(source[i]['image']))), source[i]
    raise AssertionError(key)


def test_unusual_formats_are_converted(nasty):
    _, out, _, _, _, _ = nasty
    array = corpus.photo(1).astype(int)
    assert pixels(out, 'plain')[1]['image'] == corpus.encoded(corpus.photo(1))  # byte for byte
    for key, expected, tolerance in (
        ('alpha', array * 128 // 255 + 127, 4),  # half opaque, over white
        ('png_called_jpg', array, 4),
        ('cmyk', array, 12),
        ('webp', array, 6),
        ('gif', array, 25),
        ('palette', array, 25),
        ('rotated', np.rot90(array, -1), 4),  # EXIF 6: upright after a quarter turn clockwise
        ('grey16', array[..., :1].repeat(3, axis=2), 4),
    ):
        stored = pixels(out, key)[0].astype(int)
        assert stored.shape == expected.shape, key
        assert np.abs(stored - expected).mean() < tolerance, key
    assert pixels(out, 'bom')[1]['captions'] == ['café ☕'.encode()]
    assert MAX_PIXELS < 12_000 * 10_000


def test_verify_reads_all_and_finds_damage(nasty, tmp_path):
    _, out, report, _, _, _ = nasty
    assert preparation.verify(str(out)) == report['kept']
    corpus.good_tar(tmp_path / '0.tar', 30)
    run(tmp_path / '0.tar', tmp_path / 'out')
    shard = next((tmp_path / 'out').glob('*.array_record-*'))
    content = bytearray(shard.read_bytes())
    content[30_000:32_000] = b'\xa5' * 2000
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r'record \d+ of .*array_record-00000-of-00001 is damaged'):
        preparation.verify(str(tmp_path / 'out'))
    data = data_of(tmp_path / 'out')
    ((source, _),) = sources.open_train(data)
    with pytest.raises(UserError, match=r'cannot read record \d+ of .*skip_unreadable=True'):
        [source[i] for i in range(30)]
    data.skip_unreadable = True
    ((source, _),) = sources.open_train(data)
    assert len([source[i] for i in range(30)]) == 30
    assert 1 <= len(source.unreadable) < 30


def folder_content(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob('*'))
        if p.is_file() and p.name != 'plan.json'
    }


@pytest.fixture
def shards(tmp_path):
    for i in range(4):
        corpus.good_tar(tmp_path / f'{i:05}.tar', 6, first=10 * i)
    return tmp_path / '{00000..00003}.tar'


def test_an_interrupted_run_continues_to_the_same_result(shards, tmp_path, monkeypatch, capsys):
    run(shards, tmp_path / 'whole')
    real, calls = preparation.prepare_shard, []

    def fail_at_third(shard, index, *rest):
        calls.append(index)
        if len(calls) == 3:
            raise OSError(28, 'No space left on device')
        return real(shard, index, *rest)

    class InProcess:
        """Runs jobs immediately in this process, where functions are replaced."""

        def __init__(self, *_, **__):
            pass

        def submit(self, function, *args):
            import concurrent.futures

            future = concurrent.futures.Future()
            try:
                future.set_result(function(*args))
            except OSError as error:
                future.set_exception(error)
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(preparation.concurrent.futures, 'ProcessPoolExecutor', InProcess)
    monkeypatch.setattr(preparation, 'prepare_shard', fail_at_third)
    with pytest.raises(UserError, match='No space left on device; finished shards are kept'):
        run(shards, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'dataset_info.json').exists()  # training would refuse it

    calls.clear()
    monkeypatch.setattr(preparation, 'prepare_shard', lambda *a: calls.append(a[1]) or real(*a))
    run(shards, tmp_path / 'out')
    assert calls == [2]
    assert '3 of 4 shards are already done' in capsys.readouterr().out
    assert folder_content(tmp_path / 'out') == folder_content(tmp_path / 'whole')


@pytest.mark.slow
def test_a_write_that_fails_leaves_no_shard(tmp_path):
    """A limit on the size of files stands for a full disk: write() fails in the same place."""
    corpus.good_tar(tmp_path / '0.tar', 2)
    corpus.good_tar(tmp_path / '1.tar', 100)
    command = [
        sys.executable,
        '-m',
        'input_pipeline.prepare',
        f'--source={tmp_path}/{{0..1}}.tar',
        f'--out={tmp_path / "out"}',
        '--workers=1',
    ]

    limited = ['bash', '-c', 'ulimit -f 150; exec "$0" "$@"', *command]  # in units of 1 kB
    failed = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f'error: cannot continue with {tmp_path}/1.tar: ')
    assert 'File too large' in last
    assert 'Traceback' not in failed.stderr
    left = sorted(p.name for p in (tmp_path / 'out').rglob('*') if p.is_file())
    assert left == [
        '00000.json',
        '00000.words.json',
        'pairs-train.array_record-00000-of-00002',
        'plan.json',
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '102 kept, 0 dropped' in done.stdout


@pytest.mark.slow
def test_a_killed_run_continues(tmp_path):
    """After SIGKILL, the same command ends with the result of an uninterrupted run."""
    for i in range(6):
        corpus.good_tar(tmp_path / f'{i:05}.tar', 150, first=1000 * i)
    command = [
        sys.executable,
        '-m',
        'input_pipeline.prepare',
        f'--source={tmp_path}/{{00000..00005}}.tar',
        '--workers=1',
    ]
    broken = tmp_path / 'broken'
    process = subprocess.Popen(
        [*command, f'--out={broken}'], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(list(broken.glob('shards/0*.json'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(broken.glob('shards/0*.json'))) < 6
    for out in (broken, tmp_path / 'whole'):
        done = subprocess.run(
            [*command, f'--out={out}', '--verify'],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert '900 samples in 6 shards: 900 kept, 0 dropped' in done.stdout
        assert 'All 900 records' in done.stdout
    assert folder_content(broken) == folder_content(tmp_path / 'whole')


# Of a version before own data could be prepared. A plain JPEG is kept byte for byte, so no library's encoder matters.
BEFORE = {
    'tar': '9c817654a9e6086b',
    'tsv': '048018a24c41a06c',
}


@pytest.mark.parametrize('kind', BEFORE)
def test_tars_and_tsvs_give_the_same_bytes_as_ever(tmp_path, monkeypatch, kind):
    """Records, reports and plan, with relative paths; so an older preparation can continue."""
    monkeypatch.chdir(tmp_path)
    photograph = (Path(skimage.data.__file__).parent / 'rocket.jpg').read_bytes()
    pairs = [m for i in range(3) for m in corpus.pair(f'{i:09}', photograph, b'number %d' % i)]
    corpus.write_tar(Path('0.tar'), [*pairs, ('lone.txt', b'no image')])
    Path('images').mkdir()
    Path('images/000000000.jpg').write_bytes(photograph)
    Path('pairs.tsv').write_text('http://a.example/x.jpg\tone\nhttp://a.example/y.jpg\ttwo\n')
    if kind == 'tar':
        run('0.tar', 'out')
    else:
        run('pairs.tsv', 'out', images='images')
    digest = hashlib.sha256()
    for path in sorted(Path('out').rglob('*')):
        if path.is_file() and path.name not in ('dataset_info.json', 'features.json'):  # TFDS's
            digest.update(f'{path} '.encode() + path.read_bytes())
    assert digest.hexdigest()[:16] == BEFORE[kind]


def test_max_side_scales_down_and_only_down(tmp_path):
    members = corpus.pair('large', corpus.encoded(corpus.photo(0, (300, 400))))
    members += corpus.pair('small', corpus.encoded(corpus.photo(0, (40, 50))))
    corpus.write_tar(tmp_path / '0.tar', members)
    run(tmp_path / '0.tar', tmp_path / 'out', max_side=100)
    assert pixels(tmp_path / 'out', 'large')[0].shape == (75, 100, 3)
    assert pixels(tmp_path / 'out', 'small')[0].shape == (40, 50, 3)


def test_a_tsv_beside_a_folder(tmp_path):
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    (folder / '000000000.jpg').write_bytes(corpus.encoded(corpus.photo(0)))
    (folder / 'sub' / 'my cat.png').write_bytes(corpus.encoded(corpus.photo(1), 'PNG'))
    (folder / '000000003.jpg').write_bytes(b'<html>')
    (tmp_path / 'pairs.tsv').write_text(
        'https://a.example/x.jpg\tby number\n'
        'https://a.example/dir/my%20cat.png?size=1\tby name\n'
        'https://a.example/gone.jpg\tno image\n'
        'https://a.example/bad.jpg\tbroken\n'
        'https://a.example/y.jpg\n'
    )
    report = run(tmp_path / 'pairs.tsv', tmp_path / 'out', images=str(folder))
    assert report['kept'] == 2
    assert report['dropped_by_reason'] == {'no_image': 2, 'not_an_image': 1}
    assert [d['key'] for d in dropped(tmp_path / 'out')] == ['000000002', '000000003', '000000004']
    ((source, _),) = sources.open_train(data_of(tmp_path / 'out'))
    assert [source[i]['captions'] for i in range(2)] == [[b'by number'], [b'by name']]


def test_a_tsv_of_many_rows_is_cut_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(url_rows, 'LARGEST_SHARD', 3)
    path = tmp_path / 'pairs.tsv'
    path.write_text(''.join(f'http://a.example/{i}.jpg\tcaption {i}\n' for i in range(8)))
    (tmp_path / 'images').mkdir()
    images_folder = url_rows.ImageFolder(str(tmp_path / 'images'))
    shards = url_rows.tsv_shards(path)
    assert [(s.first_row, s.rows) for s in shards] == [(0, 3), (3, 3), (6, 2)]
    samples = [s for shard in shards for s in url_rows.tsv_samples(shard, images_folder)]
    assert [s.captions[0].decode() for s in samples] == [f'caption {i}' for i in range(8)]


def test_a_shard_without_a_good_sample(tmp_path):
    corpus.write_tar(tmp_path / '0.tar', corpus.pair('a', b''))
    corpus.good_tar(tmp_path / '1.tar', 3)
    report = run(tmp_path / '{0..1}.tar', tmp_path / 'out')
    assert (report['kept'], report['dropped']) == (3, 1)
    ((source, _),) = sources.open_train(data_of(tmp_path / 'out'))
    assert [source[i]['key'] for i in range(len(source))] == [
        b'000000000',
        b'000000001',
        b'000000002',
    ]
    assert source.location(1).endswith('-00001-of-00002')


@pytest.mark.parametrize(
    ('source', 'options', 'words'),
    [
        ('{0..3}.tar', {}, 'matches no .tar file'),
        ('{3..0}.tar', {}, 'is not a range'),
        ('{a,b}.tar', {}, 'is not a range'),
        ('', {}, 'matches no .tar file'),
        ('absent.tsv', {'images': '.'}, 'cannot read --source'),
        ('pairs.tsv', {}, 'needs --images=DIR'),
        ('good.tar', {'images': '.'}, '--images is not for this source'),
        ('pairs.tsv', {'images': 'absent'}, 'is not a folder'),
        ('empty.tsv', {'images': '.'}, 'has no rows'),
        ('html.tar', {}, 'none of 1 samples could be kept'),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, monkeypatch, source, options, words):
    monkeypatch.chdir(tmp_path)
    Path('pairs.tsv').write_text('http://a.example/1.jpg\ta\n')
    Path('empty.tsv').write_text('')
    corpus.good_tar(Path('good.tar'), 1)
    corpus.write_tar(Path('html.tar'), corpus.pair('a', b'<html>'))
    with pytest.raises(UserError, match=words):
        run(source or tmp_path, tmp_path / 'out', **options) if source else run(
            tmp_path / 'out', tmp_path / 'out2'
        )


def test_another_preparation_is_not_overwritten(shards, tmp_path):
    run(shards, tmp_path / 'out')
    with pytest.raises(UserError, match='holds another preparation'):
        run(shards, tmp_path / 'out', max_side=64)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('do not touch')
    with pytest.raises(UserError, match='is not empty'):
        run(shards, tmp_path / 'mine')
    with pytest.raises(UserError, match='cannot write'):
        run(shards, '/proc/out')


def test_the_command_reports_mistakes_in_one_line():
    for flags, message in (
        (['--bogus=1'], "Unknown command line flag 'bogus'; --help lists the flags"),
        (['--max_side=3', '--out=out'], '--max_side=3 must be at least 16'),
    ):
        command = [sys.executable, '-m', 'input_pipeline.prepare', *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, '')
        assert done.stderr == f'error: {message}\n'


def test_worker_processes_import_neither_tensorflow_nor_jax():
    """They import the command's module again; either library would cost each of them seconds."""
    code = 'import sys, input_pipeline.prepare; print({"tensorflow", "jax"} & set(sys.modules))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == 'set()\n', done.stderr


def test_braces():
    assert tar_samples.expand_braces('a/{008..011}.tar') == [f'a/{i:03}.tar' for i in range(8, 12)]
    assert tar_samples.expand_braces('a.tar') == ['a.tar']
    assert tar_samples.expand_braces('{0..1}/{5..6}') == ['0/5', '0/6', '1/5', '1/6']
