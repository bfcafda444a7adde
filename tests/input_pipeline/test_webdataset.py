"""Evaluation sets: reading returns what was written, also with webdataset; damage is reported."""

import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from input_pipeline.labels import read_label
from input_pipeline.webdataset import Sample, iter_samples, open_eval_set
from input_pipeline.webdataset import write_eval_set as write
from pgs.errors import UserError

CLASSES = ['person', 'coffee', 'cat', 'rocket', 'galaxy']
TEMPLATES = ['a photo of a {c}.', '{c}']
ABOUT = {'classnames': CLASSES, 'templates': TEMPLATES}
CAPTIONS = [
    ['an astronaut', 'eine Astronautin — «Übung»'],
    ['coffee'],
    ['猫', 'a cat '],
    ['r'],
    ['s'],
]
FORMATS = ('webp', 'png', 'jpeg', 'webp', 'png')
IMAGE = b'\x89PNG of a test that decodes no image'


@pytest.fixture(scope='module')
def images(photos):
    """Photographs in every format of the layout."""
    out = []
    for photo, image_format in zip(photos, FORMATS, strict=True):
        stream = io.BytesIO()
        Image.fromarray(photo).save(stream, image_format, lossless=True)
        out.append(stream.getvalue())
    return out


def labels_of(kind):
    if kind == 'multilabel':
        return list(np.random.default_rng(0).integers(0, 2, (5, len(CLASSES)), dtype=np.uint8))
    return CAPTIONS if kind == 'retrieval' else [4, 0, 2, 2, 1]


def about(kind):
    return {'kind': kind} if kind == 'retrieval' else {'kind': kind, **ABOUT}


KINDS = pytest.mark.parametrize('kind', ['classification', 'multilabel', 'retrieval'])


def make_set(folder, members, *, kind='classification', nshards='1\n'):
    """Writes a set without `write_eval_set`: (name or TarInfo, content) members, all in 0.tar."""
    (folder / 'test').mkdir(parents=True)
    (folder / 'dataset_type.txt').write_text(f'{kind}\n')
    (folder / 'classnames.txt').write_text('person\ncoffee\ncat\n')
    (folder / 'zeroshot_classification_templates.txt').write_text('a {c}\n')
    (folder / 'test' / 'nshards.txt').write_text(nshards)
    with tarfile.open(folder / 'test' / '0.tar', 'w') as archive:
        for info, content in members:
            info = info if isinstance(info, tarfile.TarInfo) else tarfile.TarInfo(info)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder


def npy(array, **kwargs):
    stream = io.BytesIO()
    np.save(stream, array, **kwargs)
    return stream.getvalue()


def good(index, label=b'1'):
    return [(f's{index:07d}.png', IMAGE), (f's{index:07d}.cls', label)]


def error_of(function, *args, **kwargs):
    """The message of the UserError, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert '\n' not in message
    return message


def read_error(folder):
    return error_of(lambda: list(iter_samples(open_eval_set(folder))))


@KINDS
def test_what_is_written_is_read_back(tmp_path, images, kind):
    labels = labels_of(kind)
    folder = tmp_path / '50% of a: set'  # neither a pattern of ShardWriter's nor a URL
    pairs = zip(images, labels, strict=True)
    written = write(folder, 'test', pairs, **about(kind), shard_size=2)
    eval_set = open_eval_set(folder)
    assert eval_set == written
    assert (eval_set.name, eval_set.kind) == ('50% of a: set', kind)
    assert [shard.name for shard in eval_set.shards] == ['0.tar', '1.tar', '2.tar']
    expected = ([], []) if kind == 'retrieval' else (CLASSES, TEMPLATES)
    assert (eval_set.classnames, eval_set.templates) == expected

    samples = list(iter_samples(eval_set))
    assert [sample.key for sample in samples] == [f's{i:07d}' for i in range(5)]
    assert [sample.image for sample in samples] == images
    for sample, label in zip(samples, labels, strict=True):
        assert type(sample.label) is type(label)
        np.testing.assert_array_equal(sample.label, label, strict=kind == 'multilabel')


@KINDS
def test_webdataset_itself_reads_the_same(tmp_path, images, kind):
    pairs = zip(images, labels_of(kind), strict=True)
    eval_set = write(tmp_path / 'set', 'test', pairs, **about(kind), shard_size=2)
    theirs = list(wds.WebDataset([str(shard) for shard in eval_set.shards], shardshuffle=False))
    ours = list(iter_samples(eval_set))
    assert [sample['__key__'] for sample in theirs] == [sample.key for sample in ours]
    extensions = ('webp', 'png', 'jpg', 'webp', 'png')
    assert [s[e] for s, e in zip(theirs, extensions, strict=True)] == [s.image for s in ours]
    decoded = list(wds.WebDataset([str(s) for s in eval_set.shards], shardshuffle=False).decode())
    for sample, mine in zip(decoded, ours, strict=True):
        if kind == 'classification':
            assert sample['cls'] == mine.label
        elif kind == 'multilabel':
            np.testing.assert_array_equal(sample['npy'], mine.label, strict=True)
        else:
            assert sample['txt'].splitlines() == mine.label


def test_tars_that_webdataset_wrote_by_itself(tmp_path, images):
    """Its encoders, a folder in the key and an upper-case extension."""
    make_set(tmp_path / 'set', [])
    with wds.TarWriter(str(tmp_path / 'set' / 'test' / '0.tar')) as writer:
        for index, image in enumerate(images[:3]):
            writer.write(
                {'__key__': f'./s{index:07d}', FORMATS[index].upper(): image, 'cls': index}
            )
    samples = list(iter_samples(open_eval_set(tmp_path / 'set')))
    assert samples == [Sample(f'./s{i:07d}', images[i], i) for i in range(3)]


def test_every_image_extension_is_read(tmp_path):
    extensions = ('webp', 'png', 'jpg', 'jpeg')
    members = []
    for index, extension in enumerate(extensions):
        members += [(f's{index}.{extension}', extension.encode()), (f's{index}.cls', b'2\n')]
    samples = list(iter_samples(open_eval_set(make_set(tmp_path / 'set', members))))
    assert samples == [Sample(f's{i}', e.encode(), 2) for i, e in enumerate(extensions)]


def test_type_is_classification_where_the_file_is_absent(tmp_path):
    folder = make_set(tmp_path / 'set', good(0))
    (folder / 'dataset_type.txt').unlink()
    assert open_eval_set(folder).kind == 'classification'
    assert [sample.label for sample in iter_samples(open_eval_set(folder))] == [1]


def test_retrieval_needs_neither_classes_nor_templates(tmp_path):
    members = [('s0.png', IMAGE), ('s0.txt', b'a\n\nb\n')]
    folder = make_set(tmp_path / 'set', members, kind='Retrieval')  # in any case, as clip-benchmark
    (folder / 'classnames.txt').unlink()
    (folder / 'zeroshot_classification_templates.txt').unlink()
    assert list(iter_samples(open_eval_set(folder))) == [Sample('s0', IMAGE, ['a', 'b'])]


def test_other_splits(tmp_path):
    write(tmp_path, 'train', [(IMAGE, 0)], kind='classification', **ABOUT)
    write(tmp_path, 'test', [(IMAGE, 1), (IMAGE, 2)], kind='classification', **ABOUT)
    labels = [
        [s.label for s in iter_samples(open_eval_set(tmp_path, p))] for p in ('train', 'test')
    ]
    assert labels == [[0], [1, 2]]
    assert f'cannot read {tmp_path / "val" / "nshards.txt"}' in error_of(
        open_eval_set, tmp_path, 'val'
    )


def test_reading_is_a_stream(tmp_path, monkeypatch):
    """The first sample comes before the rest is read, and headers are not collected."""
    folder = make_set(tmp_path / 'set', [m for i in range(100) for m in good(i)])
    archives = []
    real_open = tarfile.open

    def spy(*args, **kwargs):
        archives.append(real_open(*args, **kwargs))
        return archives[-1]

    monkeypatch.setattr(tarfile, 'open', spy)
    stream = iter_samples(open_eval_set(folder))
    assert archives == []
    next(stream)
    first = archives[0].offset
    most = max(len(archives[0].members) for _ in stream)
    assert 0 < first < archives[0].offset / 20
    assert most <= 1


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('classnames.txt', None, 'No such file'),
        ('classnames.txt', '', 'line 1 is empty'),
        ('classnames.txt', 'person\n\ncat\n', 'line 2 is empty'),
        ('classnames.txt', b'caf\xe9\n', 'not UTF-8 text'),
        ('zeroshot_classification_templates.txt', None, 'No such file'),
        ('zeroshot_classification_templates.txt', '', "'' lacks {c}"),
        ('zeroshot_classification_templates.txt', 'a {c}\na {}\n', "'a {}' lacks {c}"),
        ('dataset_type.txt', 'detection\n', "holds 'detection': it must hold one of"),
        ('test/nshards.txt', None, 'No such file'),
        ('test/nshards.txt', 'two\n', "holds 'two'"),
        ('test/nshards.txt', '', "holds ''"),
        ('test/nshards.txt', '0\n', "holds '0'"),
        ('test/nshards.txt', '-1\n', "holds '-1'"),
        ('test/0.tar', None, 'is missing, nshards.txt counts 1 tars'),
    ],
)
def test_a_bad_file_of_the_folder_is_named(tmp_path, name, text, expected):
    folder = make_set(tmp_path / 'set', good(0))
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    message = error_of(open_eval_set, folder)
    assert str(folder / name) in message
    assert expected in message


def test_missing_folder_and_missing_shard_are_named(tmp_path):
    assert f'{tmp_path / "none"} is not a folder' in error_of(open_eval_set, tmp_path / 'none')
    folder = make_set(tmp_path / 'set', good(0), nshards='3')
    assert f'{folder / "test" / "1.tar"} is missing' in error_of(open_eval_set, folder)


@pytest.mark.parametrize(
    ('kind', 'extension', 'content', 'expected'),
    [
        ('classification', 'cls', b'3', 'class id 3, but 3 classes'),
        ('classification', 'cls', b'-1', 'class id -1, but 3 classes'),
        ('classification', 'cls', b'cat', "b'cat'"),
        ('classification', 'cls', b'', "b''"),
        ('classification', 'npy', b'0', 'has no label: a classification set needs .cls'),
        ('multilabel', 'npy', npy(np.ones(2)), '0 or 1 for each of the 3 classes'),
        ('multilabel', 'npy', npy(np.ones((1, 3))), '0 or 1 for each of the 3 classes'),
        ('multilabel', 'npy', npy(np.array([0, 1, 2])), '0 or 1 for each of the 3 classes'),
        ('multilabel', 'npy', npy(np.array(['0', '1', '1'])), '0 or 1 for each'),
        ('multilabel', 'npy', npy(np.ones(3))[:-1], '.npy cannot be used'),
        ('multilabel', 'npy', b'', '.npy cannot be used'),
        ('multilabel', 'cls', b'0', 'has no label: a multilabel set needs .npy'),
        ('retrieval', 'txt', b'caf\xe9', "'utf-8' codec"),
        ('retrieval', 'txt', b' \n\n', 'no caption'),
        ('retrieval', 'cls', b'0', 'has no label: a retrieval set needs .txt'),
    ],
)
def test_a_bad_label_is_named(tmp_path, kind, extension, content, expected):
    fine = {'classification': b'1', 'multilabel': npy(np.ones(3)), 'retrieval': b'a cat'}[kind]
    own = {'classification': 'cls', 'multilabel': 'npy', 'retrieval': 'txt'}[kind]
    members = [('s0000006.png', IMAGE), (f's0000006.{own}', fine)]
    members += [('s0000007.png', IMAGE), (f's0000007.{extension}', content)]
    folder = make_set(tmp_path / 'set', members, kind=kind)
    message = read_error(folder)
    assert f"{folder / 'test' / '0.tar'}: sample 's0000007'" in message
    assert expected in message
    assert next(iter_samples(open_eval_set(folder))).key == 's0000006'


class Explosive:
    """Runs code when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('wrap', ['object array', 'plain pickle'])
def test_pickled_labels_are_refused_unopened(tmp_path, wrap):
    bomb = Explosive(str(tmp_path / 'exploded'))
    content = npy(np.array([bomb] * 3)) if wrap == 'object array' else pickle.dumps(bomb)
    members = [('s0.png', IMAGE), ('s0.npy', content)]
    message = read_error(make_set(tmp_path / 'set', members, kind='multilabel'))
    assert "sample 's0': .npy cannot be used" in message
    assert 'pickled ones are never loaded' in message
    assert not (tmp_path / 'exploded').exists()
    pickle.loads(pickle.dumps(bomb)).close()
    assert (tmp_path / 'exploded').exists()  # so the assertion above is able to fail


def test_a_sample_must_be_whole(tmp_path):
    folder = make_set(tmp_path / 'image', [*good(0), ('s0000001.cls', b'1')])
    assert f"{folder}/test/0.tar: sample 's0000001' has no image" in read_error(folder)
    folder = make_set(tmp_path / 'empty', [('s0000001.png', b''), ('s0000001.cls', b'1')])
    assert "sample 's0000001' has no image" in read_error(folder)
    folder = make_set(tmp_path / 'label', [('s0000001.png', IMAGE), *good(2)])
    assert f"{folder}/test/0.tar: sample 's0000001' has no label" in read_error(folder)
    folder = make_set(tmp_path / 'twice', [*good(0), *good(0)])
    assert f"{folder}/test/0.tar: sample 's0000000' has two '.png'" in read_error(folder)
    folder = make_set(tmp_path / 'nothing', [])
    assert f'the tars in {folder}/test hold no sample' in read_error(folder)


def test_a_cut_is_found_wherever_it_is(tmp_path):
    """Also between two members, where tarfile and webdataset notice nothing."""
    folder = make_set(tmp_path / 'set', [m for i in range(3) for m in good(i)])
    shard = folder / 'test' / '0.tar'
    content = shard.read_bytes()
    end = 3 * 4 * tarfile.BLOCKSIZE  # header and content, image and label
    assert content[end:].strip(b'\0') == b''
    counts = []
    for size in [*range(0, end, 256), end, end + 256]:
        shard.write_bytes(content[:size])
        read = []
        with pytest.raises(UserError) as caught:
            read.extend(iter_samples(open_eval_set(folder)))
        counts.append(len(read))
        assert f'{shard} is cut or corrupt after {len(read)} samples (' in str(caught.value)
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}  # the third is complete only when the end is read
    shard.write_bytes(content[: end + tarfile.BLOCKSIZE])  # one block of zeros ends a tar
    assert len(list(iter_samples(open_eval_set(folder)))) == 3


@pytest.mark.parametrize(('block', 'samples'), [(0, 0), (6, 1), (8, 1), (10, 2)])
def test_a_damaged_header_is_found(tmp_path, block, samples):
    """tarfile mistakes it for the end, except the first; the sample before it may be incomplete."""
    folder = make_set(tmp_path / 'set', [m for i in range(3) for m in good(i)])
    shard = folder / 'test' / '0.tar'
    content = bytearray(shard.read_bytes())
    content[block * tarfile.BLOCKSIZE + 150] ^= 1  # in the checksum
    shard.write_bytes(content)
    message = read_error(folder)
    assert f'{shard} is cut or corrupt after {samples} samples (' in message


def test_what_is_no_tar_is_named(tmp_path):
    folder = make_set(tmp_path / 'set', good(0))
    shard = folder / 'test' / '0.tar'
    for content in (b'', b'version https://git-lfs.github.com/spec/v1\n', b'\x1f\x8b' * 5000):
        shard.write_bytes(content)
        assert f'{shard} is cut or corrupt after 0 samples' in read_error(folder)
    eval_set = open_eval_set(folder)
    shard.unlink()
    assert f'{shard} is cut or corrupt after 0 samples' in error_of(list, iter_samples(eval_set))


def test_the_count_starts_anew_with_each_shard(tmp_path):
    eval_set = write(
        tmp_path, 'test', [(IMAGE, 1)] * 7, kind='classification', **ABOUT, shard_size=4
    )
    content = eval_set.shards[1].read_bytes()
    eval_set.shards[1].write_bytes(content[: 4 * tarfile.BLOCKSIZE * 2 + 700])
    assert f'{eval_set.shards[1]} is cut or corrupt after 2 samples' in read_error(tmp_path)


def special(name, member_type, target=''):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = member_type, target
    return info


def test_members_that_point_outside_are_left_out(tmp_path):
    inside = tmp_path / 'a' / 'b'
    outside = tmp_path / 'secret.png'
    outside.write_bytes(b'secret')
    hostile = []
    for name in ('../../x', f'{tmp_path}/y', 'a/../../z', '..'):
        hostile += [(f'{name}.png', IMAGE), (f'{name}.cls', b'1')]
    for index, (member_type, target) in enumerate(
        [
            (tarfile.SYMTYPE, '../../secret.png'),
            (tarfile.LNKTYPE, str(outside)),
            (tarfile.CHRTYPE, ''),
            (tarfile.BLKTYPE, ''),
            (tarfile.FIFOTYPE, ''),
            (tarfile.DIRTYPE, ''),
        ]
    ):
        for extension in ('png', 'cls'):
            hostile.append((special(f's900000{index}.{extension}', member_type, target), b''))
    folder = make_set(inside / 'set', [*good(0), *hostile, *good(1)])
    with tarfile.open(folder / 'test' / '0.tar') as archive:
        assert len(archive.getnames()) == 2 * 2 + 2 * 4 + 2 * 6
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob('*')}
    samples = list(iter_samples(open_eval_set(folder)))
    assert samples == [Sample(f's000000{i}', IMAGE, 1) for i in (0, 1)]
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob('*')} == before


def test_an_interrupted_writing_cannot_be_opened(tmp_path):
    write(tmp_path, 'test', [(IMAGE, 1)], kind='classification', **ABOUT)

    def stop_at_third():
        yield from [(IMAGE, 2), (IMAGE, 2)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 'test', stop_at_third(), kind='classification', **ABOUT)
    assert (tmp_path / 'test' / '0.tar').exists()
    assert 'nshards.txt (No such file' in error_of(open_eval_set, tmp_path)
    again = write(tmp_path, 'test', [(IMAGE, 3)], kind='classification', **ABOUT)
    assert [sample.label for sample in iter_samples(again)] == [3]


def test_a_relative_folder_may_hold_a_colon(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # webdataset would run 'pipe:x' as a command
    write('pipe:set', 'test', [(IMAGE, 2)], kind='classification', **ABOUT)
    assert [sample.label for sample in iter_samples(open_eval_set('pipe:set'))] == [2]
    monkeypatch.setenv('HOME', str(tmp_path))
    assert open_eval_set('~/pipe:set').name == 'pipe:set'
    assert capsys.readouterr().out == ''


def test_writing_twice_gives_the_same_bytes(tmp_path, images):
    tars = []
    for name in ('one', 'two'):
        pairs = zip(images, labels_of('multilabel'), strict=True)
        tars.append(write(tmp_path / name, 'test', pairs, **about('multilabel')).shards[0])
    assert tars[0].read_bytes() == tars[1].read_bytes()


@pytest.mark.parametrize(
    ('kind', 'image', 'label', 'expected'),
    [
        ('classification', IMAGE, 5, 'class id 5, but 5 classes'),
        ('classification', IMAGE, '3', 'would not be read back'),
        ('classification', IMAGE, 3.0, 'cannot be used'),
        ('classification', b'GIF89a', 3, 'sample 1 has no image'),
        ('multilabel', IMAGE, np.ones(4), '0 or 1 for each of the 5 classes'),
        ('multilabel', IMAGE, np.array([None] * 5), 'never loaded'),
        ('retrieval', IMAGE, ['two\nlines'], 'would not be read back'),
        ('retrieval', IMAGE, ['a', ''], 'would not be read back'),
        ('retrieval', IMAGE, [], 'no caption'),
    ],
)
def test_what_would_not_be_read_back_is_not_written(tmp_path, kind, image, label, expected):
    pairs = [(IMAGE, labels_of(kind)[0]), (image, label)]
    message = error_of(write, tmp_path, 'test', pairs, **about(kind))
    assert 'sample 1' in message
    assert expected in message
    assert not (tmp_path / 'test' / 'nshards.txt').exists()


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ({'classnames': ['two\nlines', *CLASSES]}, 'trimmed lines'),
        ({'classnames': [' person']}, 'trimmed lines'),
        ({'classnames': []}, 'line 1 is empty'),
        ({'templates': []}, 'lacks {c}'),
        ({'kind': 'retrieval'}, 'none for retrieval'),
        ({'kind': 'detection'}, "holds 'detection'"),
    ],
)
def test_a_description_that_would_change_is_refused(tmp_path, change, expected):
    description = {'kind': 'classification', **ABOUT, **change}
    assert expected in error_of(write, tmp_path, 'test', [(IMAGE, 0)], **description)


def test_no_samples_are_refused(tmp_path):
    eval_set = write(tmp_path, 'test', [], kind='classification', **ABOUT)
    assert 'hold no sample' in error_of(list, iter_samples(eval_set))


def test_writing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'webdataset', None)  # as if it were not installed
    message = error_of(write, tmp_path / 'set', 'test', [(IMAGE, 0)], **about('classification'))
    assert 'pip install webdataset' in message
    assert not (tmp_path / 'set').exists()
    folder = make_set(tmp_path / 'by hand', good(0))  # reading does not need it
    assert len(list(iter_samples(open_eval_set(folder)))) == 1


def test_a_label_that_is_no_number_is_refused():
    """Found by benchmarks.fuzz: NumPy cannot compare structured arrays with numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(4, [('a', 'f4')]))
    with pytest.raises(ValueError, match='it must hold 0 or 1 for each of the 4 classes'):
        read_label('multilabel', buffer.getvalue(), 4)
