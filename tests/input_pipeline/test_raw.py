"""Own data in one command: folders, tables, JSON of captions; what is bad is counted or refused."""

import json
import os
import tracemalloc

import corpus
import pyarrow as pa
import pyarrow.parquet
import pytest

from input_pipeline import plan, worker
from input_pipeline.raw import layouts, listing
from input_pipeline.raw.image_files import ImageFiles
from input_pipeline.raw.reader import Request
from input_pipeline.raw.samples import RawSample, Seen, rows_a_shard
from input_pipeline.validate import REASONS, DropError
from pgs.errors import UserError

IMAGES = {name: corpus.encoded(corpus.photo(i, (20, 24))) for i, name in enumerate('abcdef')}


@pytest.fixture
def photos(tmp_path):
    """A folder with a.jpg to f.jpg."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name, image in IMAGES.items():
        (folder / f'{name}.jpg').write_bytes(image)
    return folder


def read(tmp_path, source, held_out=None, **options) -> list[RawSample]:
    """The samples of a source, in this process; each is counted."""
    out = tmp_path / 'out'
    opened = plan.open_plan(Request(str(source), **options), out, None, held_out)
    found, seen = [], Seen()
    for shard in opened.shards:
        found += opened.reader.open()(shard, seen)
    assert seen.samples == len(found)
    assert seen.members == sum(sample.members for sample in found)
    assert opened.rows in (None, seen.members)
    assert all(sample.defect is None or sample.defect in REASONS for sample in found)
    return found


def pairs(samples):
    """{key: captions} of the good samples; each has the image of its name."""
    good = [s for s in samples if s.image and s.captions]
    for sample in good:
        assert sample.image == IMAGES[sample.key.rpartition('/')[2][0]]
    return {s.key: [c.decode() for c in s.captions] for s in good}


def defects(samples):
    return [(s.key, s.defect) for s in samples if s.defect]


def refusal(tmp_path, source, **options) -> str:
    """The line with which a source is refused; nothing is left behind."""
    with pytest.raises(UserError) as error:
        read(tmp_path, source, **options)
    assert not (tmp_path / 'out').exists()
    return str(error.value)


# --- Folders ---


def test_text_files_beside_images(photos, tmp_path, capsys):
    (photos / 'a.txt').write_bytes('\ufeffone\n\n two \r\nthree'.encode())
    (photos / 'sub').mkdir()
    (photos / 'sub' / 'b.v2.JPG').write_bytes(IMAGES['b'])
    (photos / 'sub' / 'b.v2.TXT').write_text('four')
    (photos / 'sub' / 'lone.txt').write_text('five')
    (photos / 'c.txt').write_text('')
    (photos / '.hidden.jpg').write_bytes(b'')
    (photos / 'd.txt').write_bytes(b'x' * 2_000_000)
    samples = read(tmp_path, photos)
    assert list(pairs(samples)) == ['a.jpg', 'c.jpg', 'sub/b.v2.JPG']
    assert pairs(samples)['a.jpg'] == ['\ufeffone', ' two ', 'three']
    assert defects(samples) == [('d.jpg', 'caption_too_long')]
    assert [s.key for s in samples if not s.image and not s.defect] == ['sub/lone.txt']
    assert [s.captions for s in samples if s.key in ('b.jpg', 'c.jpg')] == [(), (b'',)]
    assert 'as captions the lines of NAME.txt beside NAME.jpg' in capsys.readouterr().out


def test_folders_of_classes(photos, tmp_path):
    (photos / 'golden_retriever').mkdir()
    (photos / 'golden_retriever' / 'a.jpg').write_bytes(IMAGES['a'])
    samples = read(tmp_path, photos, template='a photo of a {}, a kind of {}')
    expected = 'a photo of a golden retriever, a kind of golden retriever'
    assert pairs(samples) == {'golden_retriever/a.jpg': [expected]}
    assert len(samples) == 7  # those beside the folder have no class
    assert 'lacks {}' in refusal(tmp_path / 'x', photos, template='a photo')


def test_the_prepared_folder_is_no_part_of_its_source(photos, tmp_path):
    (photos / 'a.txt').write_text('a')
    (photos / 'out').mkdir()
    shards = []
    for _ in range(2):
        opened = plan.open_plan(Request(str(photos)), photos / 'out', None)
        shards.append(opened.shards)
        (photos / 'out' / 'contact_sheet.png').write_bytes(IMAGES['a'])
    assert shards[0] == shards[1]


def test_links_out_of_the_folder_are_not_followed(photos, tmp_path):
    (tmp_path / 'secret.txt').write_text('secret')
    (tmp_path / 'secret.jpg').write_bytes(IMAGES['a'])
    os.symlink(tmp_path / 'secret.jpg', photos / 'g.jpg')
    os.symlink(photos / 'a.jpg', photos / 'h.jpg')
    os.symlink(tmp_path / 'secret.txt', photos / 'a.txt')
    (photos / 'b.txt').write_text('b')
    samples = read(tmp_path, photos)
    assert defects(samples) == [('a.jpg', 'unsafe_name'), ('g.jpg', 'unsafe_name')]
    assert next(s.image for s in samples if s.key == 'h.jpg') == IMAGES['a']


@pytest.mark.parametrize('name', ['metadata.csv', 'metadata.jsonl', 'metadata.parquet'])
def test_metadata_as_hugging_faces_imagefolder(photos, tmp_path, name):
    rows = [{'file_name': 'a.jpg', 'text': 'one, two'}, {'file_name': 'b.jpg', 'text': 'three'}]
    if name.endswith('csv'):
        (photos / name).write_text('file_name,text\na.jpg,"one, two"\nb.jpg,three\n')
    elif name.endswith('jsonl'):
        (photos / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), photos / name)
    assert pairs(read(tmp_path, photos)) == {'a.jpg': ['one, two'], 'b.jpg': ['three']}


def test_a_folder_without_captions_says_what_to_do(photos, tmp_path):
    line = refusal(tmp_path, photos)
    assert all(
        word in line for word in ('NAME.txt', 'metadata.csv', "--template='a photo of a {}'")
    )
    (tmp_path / 'empty').mkdir()
    assert 'has no images' in refusal(tmp_path, tmp_path / 'empty')


# --- Tables ---


def test_columns_are_found_by_name_and_said(photos, tmp_path, capsys):
    path = photos / 'pairs.csv'
    path.write_text('id,Title,File Path,url\n1,one,a.jpg,http://a.example/x\n')
    assert pairs(read(tmp_path, path)) == {'a.jpg': ['one']}
    said = capsys.readouterr().out
    assert f"Reads column 'File Path' as image, 'Title' as caption of {path}" in said
    assert 'Found 1 samples in 1 rows' in said


def test_columns_given_by_flags(photos, tmp_path):
    path = photos / 'pairs.csv'
    path.write_text('bild,caption,beschreibung\na.jpg,no,ja\n')
    assert 'no column that is known as the image' in refusal(tmp_path, path)
    line = refusal(tmp_path, path, image_key='photo')
    assert "no column 'photo'; its columns are 'bild', 'caption', 'beschreibung'" in line
    assert '--image_key' in line
    assert '--caption_key' in refusal(tmp_path, path, image_key='bild', caption_key='text')
    assert 'cannot be both' in refusal(tmp_path, path, image_key='caption')
    options = {'image_key': 'bild', 'caption_key': 'beschreibung'}
    assert pairs(read(tmp_path, path, **options)) == {'a.jpg': ['ja']}


@pytest.mark.parametrize('rows', ['a.jpg\tone\nb.jpg\ttwo\n', 'one\ta.jpg\ntwo\tb.jpg\n'])
def test_a_tsv_of_paths_without_a_header(photos, tmp_path, rows):
    """The first row names an image file, so it is no header."""
    (photos / 'pairs.tsv').write_text(rows)
    samples = read(tmp_path, photos / 'pairs.tsv')
    assert pairs(samples) == {'a.jpg': ['one'], 'b.jpg': ['two']}


def test_captions_with_quotes_commas_and_line_ends(photos, tmp_path):
    caption = 'a "small" cat, seen\r\nfrom\nbehind; 5" tall'
    quoted = caption.replace('"', '""')
    path = photos / 'pairs.csv'
    path.write_bytes(f'\ufeffimage,caption\r\n"a.jpg","{quoted}"\r\nb.jpg,plain\r\n'.encode())
    assert pairs(read(tmp_path, path)) == {'a.jpg': [caption], 'b.jpg': ['plain']}


def test_semicolons_as_spreadsheets_write_them(photos, tmp_path):
    (photos / 'pairs.csv').write_text('image;caption\na.jpg;one, two\n')
    assert pairs(read(tmp_path, photos / 'pairs.csv')) == {'a.jpg': ['one, two']}


def test_bad_rows_of_a_csv_are_counted(photos, tmp_path):
    rows = [
        b'image,caption',
        b'a.jpg,caf\xe9',
        b'b\xe9.jpg,one',
        b'b.jpg',
        b',lone',
        b'c.jpg,' + b'x' * 200_000,
        b'd.jpg,' + b'y' * 3_000_000,
        b'../secret.jpg,one',
        b'http://a.example/e.jpg,one',
        b'gone.jpg,one',
        b'',
        b'a\0.jpg,one',
        b'photos,one',
        b'e.jpg,good',
        b'f.jpg,"never closed',
        b'z' * 200_000,
    ]
    (photos / 'pairs.csv').write_bytes(b'\n'.join(rows))
    samples = read(tmp_path, photos / 'pairs.csv', images=None)
    assert pairs(samples) == {'e.jpg': ['good']}
    assert defects(samples) == [
        ('row 1', 'caption_not_utf8'),
        ('row 2', 'unsafe_name'),
        ('row 5', 'broken_row'),
        ('row 6', 'row_too_long'),
        ('../secret.jpg', 'unsafe_name'),
        ('http://a.example/e.jpg', 'image_is_url'),
        ('gone.jpg', 'no_image'),
        ('a\0.jpg', 'unsafe_name'),
        ('photos', 'no_image'),
        ('row 13', 'broken_row'),
    ]
    without = [(s.key, bool(s.image), s.captions) for s in samples if not s.defect][:2]
    assert without == [('b.jpg', True, ()), ('row 4', False, (b'lone',))]


def test_bad_lines_of_a_jsonl_are_counted(photos, tmp_path):
    good = {'image': 'a.jpg', 'captions': ['one', None, 'two']}
    rows = [
        json.dumps(good).encode(),
        b'no json',
        b'[1, 2]',
        b'{"image": "b.jpg", "captions": []}',
        b'{"image": "c.jpg", "captions": 5}',
        b'{"image": "d.jpg", "captions": "caf\xe9"}',
        b'{"image": "e.jpg", "captions": "' + b'x' * 3_000_000 + b'"}',
        b'[' * 5000,
        b'',
        b'{"captions": "lone"}',
    ]
    (photos / 'pairs.jsonl').write_bytes(b'\xef\xbb\xbf' + b'\n'.join(rows))
    samples = read(tmp_path, photos / 'pairs.jsonl')
    assert pairs(samples) == {'a.jpg': ['one', 'two']}
    assert [defect for _, defect in defects(samples)] == [
        'broken_row',
        'broken_row',
        'broken_row',
        'caption_not_utf8',
        'row_too_long',
        'broken_row',
    ]
    assert [s.captions for s in samples if s.key == 'b.jpg'] == [()]


def test_captions_of_one_image_stay_together(photos, tmp_path):
    """Also where its rows are not neighbours, and where its path is written differently."""
    rows = ['image,caption', 'a.jpg,one', 'b.jpg,two', './a.jpg,three', 'b.jpg,four', 'a.jpg,five']
    (photos / 'pairs.csv').write_text('\n'.join(rows))
    samples = read(tmp_path, photos / 'pairs.csv')
    assert pairs(samples) == {'a.jpg': ['one', 'three', 'five'], 'b.jpg': ['two', 'four']}
    assert [s.members for s in samples] == [3, 2]


def test_very_many_captions_of_an_image_become_several_samples(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, 'MAX_TEXT', 100)
    (photos / 'pairs.csv').write_text('image,caption\n' + 'a.jpg,a caption\n' * 20)
    samples = read(tmp_path, photos / 'pairs.csv')
    assert {s.key for s in samples} == {'a.jpg'}
    assert sum(s.members for s in samples) == sum(len(s.captions) for s in samples) == 20
    assert 1 < len(samples) < 20


def test_a_huge_line_does_not_fill_the_memory(photos, tmp_path):
    path = photos / 'pairs.csv'
    with path.open('wb') as file:
        file.write(b'image,caption\na.jpg,one\nb.jpg,')
        for _ in range(100):
            file.write(b'x' * 1_000_000)
        file.write(b'\nc.jpg,three\n')
    tracemalloc.start()
    samples = read(tmp_path, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert pairs(samples) == {'a.jpg': ['one'], 'c.jpg': ['three']}
    assert defects(samples) == [('row 2', 'row_too_long')]


def test_other_encodings_are_named(photos, tmp_path):
    (photos / 'pairs.csv').write_text('image,caption\na.jpg,one\n', encoding='utf-16')
    assert 'is UTF-16: save it as UTF-8' in refusal(tmp_path, photos / 'pairs.csv')


# --- Where the images are ---


def test_paths_of_another_machine_are_found_by_their_ends(photos, tmp_path):
    path = tmp_path / 'pairs.csv'
    rows = ['image,caption', '/home/me/photos/sub/a.jpg,one', 'C:\\photos\\b.jpg,two']
    rows += ['../pictures/c.jpg,three', 'http://a.example/x/d.jpg?w=1,four', '/x/gone.jpg,five']
    path.write_text('\n'.join(rows))
    (photos / 'sub').mkdir()
    (photos / 'sub' / 'a.jpg').write_bytes(IMAGES['a'])
    (photos / 'a.jpg').write_bytes(b'another')
    line = refusal(tmp_path, path)
    assert 'absolute paths outside of' in line
    assert 'give --images=DIR' in line
    samples = read(tmp_path, path, images=str(photos))
    found = {s.captions[0].decode(): s.image for s in samples if s.image}
    expected = zip(('one', 'two', 'three', 'four'), 'abcd', strict=True)
    assert found == {caption: IMAGES[name] for caption, name in expected}
    assert [defect for _, defect in defects(samples)] == ['no_image']


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('http://a.example/a.jpg', 'URLs where files are expected'),
        ('/elsewhere/a.jpg', 'absolute paths outside of'),
        ('../a.jpg', 'paths that leave'),
        ('b/a.jpg', 'none of the first 1 images'),
    ],
)
def test_images_that_are_not_there_are_noticed_before_the_work(tmp_path, name, words):
    (tmp_path / 'pairs.jsonl').write_text(json.dumps({'image': name, 'text': 'x'}))
    line = refusal(tmp_path, tmp_path / 'pairs.jsonl')
    assert words in line
    assert '--images=DIR' in line


def test_an_absolute_path_in_the_folder_is_fine(photos, tmp_path):
    (photos / 'pairs.csv').write_text(f'image,caption\n{photos}/a.jpg,one\n')
    samples = read(tmp_path, photos / 'pairs.csv')
    assert (samples[0].image, samples[0].captions) == (IMAGES['a'], (b'one',))


def test_nothing_outside_of_the_folder_is_opened(photos, tmp_path):
    (tmp_path / 'secret.jpg').write_bytes(b'secret')
    os.symlink(tmp_path, photos / 'up')
    os.mkfifo(photos / 'pipe.jpg')
    for reroot in (False, True):
        files = ImageFiles(str(photos), reroot=reroot)
        for name in ('../secret.jpg', str(tmp_path / 'secret.jpg'), 'up/secret.jpg', 'x\0'):
            with pytest.raises(DropError, match=r'unsafe_name|no_image'):
                files.read(name)
        with pytest.raises(DropError, match='not_a_file'):
            files.read('pipe.jpg')
        with pytest.raises(DropError, match='no_image'):
            files.read('n' * 5000)


# --- JSON of captions ---


def coco(photos, **changes):
    content = {
        'info': {'year': 2014, 'nested': {'images': [1]}},
        'annotations': [{'image_id': 2, 'id': 1, 'caption': 'two'}],
        'images': [{'id': i, 'file_name': f'{n}.jpg'} for i, n in enumerate('abc', 1)],
        'licenses': [],
    }
    content['images'] += [{'id': 1, 'file_name': 'd.jpg'}, {'file_name': 'e.jpg'}]
    content.update(changes)
    path = photos / 'captions.json'
    path.write_text(json.dumps(content | {'more': 1}))
    return path


def test_coco_captions(photos, tmp_path):
    more = [
        {'image_id': 1, 'caption': 'one'},
        {'image_id': 2, 'caption': 'zwei'},
        {'image_id': 9, 'caption': 'no such image'},
        {'image_id': '1', 'caption': 'another kind of number'},
        'no object',
    ]
    path = coco(photos, annotations=[{'image_id': 2, 'caption': 'two'}, *more])
    samples = read(tmp_path, path)
    assert pairs(samples) == {'a.jpg': ['one'], 'b.jpg': ['two', 'zwei']}
    assert defects(samples) == [
        ('row 6', 'broken_row'),
        ('d.jpg', 'duplicate_key'),
        ('row 11', 'broken_row'),
    ]
    assert [s.key for s in samples if not s.defect and not s.captions] == ['c.jpg']
    assert len([s for s in samples if not s.defect and not s.image]) == 2
    assert '--image_key is not for this source' in refusal(tmp_path / 'x', path, image_key='id')


def test_karpathys_splits(photos, tmp_path, capsys):
    images = [
        {
            'filepath': 'photos',
            'filename': f'{name}.jpg',
            'split': split,
            'sentences': [{'raw': f'{name} {i}', 'tokens': ['x']} for i in range(2)],
        }
        for name, split in zip('abcd', ('train', 'restval', 'val', 'test'), strict=True)
    ]
    path = tmp_path / 'dataset_coco.json'
    path.write_text(json.dumps({'images': images, 'dataset': 'coco'}))
    samples = read(tmp_path, path)
    assert pairs(samples) == {
        'photos/a.jpg': ['a 0', 'a 1'],
        'photos/b.jpg': ['b 0', 'b 1'],
    }
    assert defects(samples) == [('photos/c.jpg', 'other_split'), ('photos/d.jpg', 'other_split')]
    assert 'Reads the splits train and restval' in capsys.readouterr().out


def test_a_list_of_objects(photos, tmp_path):
    path = photos / 'list.json'
    path.write_text(json.dumps([{'image': 'a.jpg', 'caption': ['one', 'two']}, 3]))
    samples = read(tmp_path, path)
    assert pairs(samples) == {'a.jpg': ['one', 'two']}
    assert defects(samples) == [('row 2', 'broken_row')]


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'{"images": [', 'is not valid JSON'),
        (b'{"images": "\xff"}', 'is not valid JSON'),
        (b'[' * 10_000, 'nested too deeply'),
        (b'{"a": [1], "b": {}}', "its lists are 'a'"),
        (b'{"images": [{"id": 1, "file_name": "' + b'x' * 3_000_000 + b'"}]}', 'more than 1 MiB'),
        (b'[]', 'its lists are none'),
    ],
)
def test_other_json_is_refused(tmp_path, content, words):
    (tmp_path / 'captions.json').write_bytes(content)
    assert words in refusal(tmp_path, tmp_path / 'captions.json')


# --- Parquet ---


def hugging_face(path, rows, **options):
    """Images as the library datasets stores them."""
    image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    schema = pa.schema([('image', image), ('text', pa.list_(pa.string())), ('n', pa.int64())])
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path, **options)


def test_parquet_with_images_as_hugging_face_stores_them(photos, tmp_path):
    rows = [
        {'image': {'bytes': IMAGES['a'], 'path': 'a.jpg'}, 'text': ['one', 'two']},
        {'image': {'bytes': IMAGES['b'], 'path': None}, 'text': ['three']},
        {'image': {'bytes': IMAGES['b'], 'path': None}, 'text': ['four']},
        {'image': {'bytes': None, 'path': 'c.jpg'}, 'text': ['five']},
        {'image': {'bytes': None, 'path': None}, 'text': ['six']},
        {'image': None, 'text': ['seven']},
        {'image': {'bytes': IMAGES['d'], 'path': 'd.jpg'}, 'text': []},
        {'image': {'bytes': None, 'path': '../x.jpg'}, 'text': ['eight']},
    ]
    hugging_face(photos / 'train-00000.parquet', rows)
    samples = read(tmp_path, photos)
    found = {s.image: [c.decode() for c in s.captions] for s in samples if s.image}
    assert found == {
        IMAGES['a']: ['one', 'two'],
        IMAGES['b']: ['three', 'four'],
        IMAGES['c']: ['five'],
        IMAGES['d']: [],
    }
    assert [s.key for s in samples][:3] == ['a.jpg', 'train-00000-000000001', 'c.jpg']
    assert defects(samples) == [('../x.jpg', 'unsafe_name')]
    assert len(samples) == 7


def test_each_row_of_a_parquet_is_read_once(tmp_path, monkeypatch):
    """Row groups smaller and larger than a shard, two files, batches across them."""
    monkeypatch.setattr(layouts.parquet, 'rows_a_shard', lambda total: 40)
    for i, groups in enumerate((25, 100)):
        rows = [{'image': {'bytes': b'%d' % (1000 * i + n)}, 'text': [str(n)]} for n in range(130)]
        hugging_face(tmp_path / f'{i}.parquet', rows, row_group_size=groups)
    opened = plan.open_plan(Request(str(tmp_path / '{0..1}.parquet')), tmp_path / 'out', None)
    assert max(shard.rows for shard in opened.shards) <= 40
    samples = [s for shard in opened.shards for s in opened.reader.open()(shard, Seen())]
    assert [s.image for s in samples] == [
        b'%d' % (1000 * i + n) for i in range(2) for n in range(130)
    ]


def test_parquet_of_plain_bytes_and_of_paths(photos, tmp_path):
    table = pa.table({'jpg': [IMAGES['a']], 'caption': ['one']})
    pyarrow.parquet.write_table(table, tmp_path / 'bytes.parquet')
    (sample,) = read(tmp_path, tmp_path / 'bytes.parquet')
    assert (sample.image, sample.captions) == (IMAGES['a'], (b'one',))
    table = pa.table({'path': ['a.jpg', 'b.jpg', 'a.jpg'], 'caption': ['one', 'two', 'three']})
    pyarrow.parquet.write_table(table, photos / 'paths.parquet')
    samples = read(tmp_path / 'b', photos / 'paths.parquet')
    assert pairs(samples) == {'a.jpg': ['one', 'three'], 'b.jpg': ['two']}


def test_parquet_that_cannot_be_used(tmp_path):
    table = pa.table({'image': [1], 'caption': ['one']})
    pyarrow.parquet.write_table(table, tmp_path / 'a.parquet')
    assert 'is of type int64' in refusal(tmp_path, tmp_path / 'a.parquet')
    (tmp_path / 'a.parquet').write_bytes(b'PAR1')
    assert 'cannot read' in refusal(tmp_path, tmp_path / 'a.parquet')
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / 'a.parquet')
    pyarrow.parquet.write_table(table, tmp_path / 'b.parquet')
    assert 'is of type' in refusal(tmp_path, tmp_path / 'b.parquet')


def test_columns_whose_names_are_not_utf8_are_refused(tmp_path):
    table = pa.table({'image': [b'a'], 'caption': ['one'], 'nnnn': [1]})
    pyarrow.parquet.write_table(table, tmp_path / 'a.parquet', store_schema=False)
    content = (tmp_path / 'a.parquet').read_bytes()
    (tmp_path / 'a.parquet').write_bytes(content.replace(b'nnnn', b'n\xff\xfen'))
    assert 'cannot read' in refusal(tmp_path, tmp_path / 'a.parquet')


def test_a_parquet_whose_row_groups_claim_other_rows_is_refused(tmp_path):
    """Fuzzing found a group of 2**60 rows, whose shards filled the memory."""
    path = tmp_path / 'a.parquet'
    images = [f'{i}.jpg'.encode() for i in range(3000)]
    pyarrow.parquet.write_table(pa.table({'image': images, 'caption': ['one'] * 3000}), path)
    content = path.read_bytes()
    at = content.rfind(b'\xf0\x2e')  # 3000, as the footer encodes it; the last one is the group's
    path.write_bytes(content[:at] + b'\xfe\x7f' + content[at + 2 :])
    assert 'claims 3000 rows, and 8191 in its row groups' in refusal(tmp_path, path)


def test_a_damaged_parquet_names_the_row(tmp_path):
    rows = [{'image': {'bytes': os.urandom(3000)}, 'text': ['x']} for _ in range(100)]
    path = tmp_path / 'a.parquet'
    hugging_face(path, rows, row_group_size=10, compression='zstd')
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9000] = b'\xff' * 9000
    path.write_bytes(content)
    opened = plan.open_plan(Request(str(path)), tmp_path / 'out', None)
    ((shard,), seen) = opened.shards, Seen()
    samples = list(opened.reader.open()(shard, seen))
    assert [s.defect for s in samples[-2:]] == [None, 'shard_cut']
    cut = worker.cut_of(shard, seen)
    assert 30 <= cut['intact_rows'] < 60 == cut['rows'] - 40
    assert seen.samples == len(samples)


# --- Shards ---


@pytest.mark.parametrize(
    ('total', 'rows'), [(1, 500), (2000, 500), (100_000, 2000), (10**6, 10_000), (10**8, 10_000)]
)
def test_shards_grow_with_the_data(total, rows):
    assert rows_a_shard(total) == rows
    assert rows % 500 == 0


def test_a_list_is_cut_into_shards(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, 'rows_a_shard', lambda total: 4)
    monkeypatch.setattr(listing, 'SMALLEST_SHARD', 2)
    rows = [f'{name}.jpg,{i}' for i in range(3) for name in IMAGES]
    (photos / 'pairs.csv').write_text('\n'.join(['image,caption', *rows]))
    opened = plan.open_plan(Request(str(photos / 'pairs.csv')), tmp_path / 'out', None)
    assert [(s.first_row, s.rows) for s in opened.shards] == [(0, 4), (4, 2)]
    assert len(read(tmp_path / 'b', photos / 'pairs.csv')) == 6


def test_a_source_that_changed_is_noticed(photos, tmp_path):
    (photos / 'pairs.csv').write_text('image,caption\na.jpg,one\n')
    request = Request(str(photos / 'pairs.csv'))
    first = plan.open_plan(request, tmp_path / 'out', None)
    assert plan.open_plan(request, tmp_path / 'out', None) == first
    (photos / 'pairs.csv').write_text('image,caption\na.jpg,two\n')
    with pytest.raises(UserError, match='or one that changed'):
        plan.open_plan(request, tmp_path / 'out', None)
    assert sorted(p.name for p in (tmp_path / 'out').rglob('*.*')) == ['list.jsonl', 'plan.json']


def test_a_listing_that_was_killed_starts_again(photos, tmp_path):
    (photos / 'pairs.csv').write_text('image,caption\na.jpg,one\n')
    state = tmp_path / 'out' / worker.STATE
    state.mkdir(parents=True)
    for name in (plan.PARTIAL, plan.DATABASE):
        (state / name).write_bytes(b'half')
    assert len(read(tmp_path, photos / 'pairs.csv')) == 1
    assert not (state / plan.DATABASE).exists()


def test_a_full_disk_while_listing_is_one_line(photos, tmp_path, monkeypatch):
    (photos / 'pairs.csv').write_text('image,caption\n' + f'a.jpg,{"x" * 5000}\n' * 50)
    monkeypatch.setattr(listing, 'SCHEMA', listing.SCHEMA + 'PRAGMA max_page_count = 1;')
    line = refusal(tmp_path, photos / 'pairs.csv')
    assert 'database or disk is full' in line
    assert 'make room' in line
