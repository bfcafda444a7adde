"""The held-out split: by a hash of the key, copies of an image on one side, the same after a resume."""

import json

import corpus
import pytest

from configs import base
from input_pipeline import held_out_split, preparation, prepared_report, sources, word_counts
from input_pipeline.held_out_split import HeldOut, is_held_out, split_key
from pgs.errors import UserError


def splits(out):
    """{split: {key: captions}} as training reads them."""
    data = base.get_config().data
    data.update(name='pairs', dir=str(out))
    opened = {'train': sources.open_train(data)[0][0], 'validation': sources.open_held_out(data)}
    return {
        name: {
            record['key'].decode(): [c.decode() for c in record['captions']]
            for record in source.__getitems__(list(range(len(source))))
        }
        for name, source in opened.items()
        if source is not None
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(40):
        (folder / f'photo{i:02}.jpg').write_bytes(corpus.encoded(corpus.photo(i, (20, 24))))
    return folder


def table(photos, rows=None):
    rows = rows or [f'photo{i:02}.jpg,"number {i}, again"' for i in range(40)]
    (photos / 'pairs.csv').write_text('\n'.join(['image,caption', *rows]))
    return str(photos / 'pairs.csv')


def test_a_table_becomes_two_splits(photos, tmp_path, capsys):
    out = tmp_path / 'out'
    result = preparation.prepare(table(photos), str(out), held_out=HeldOut(pairs=10), workers=1)
    found = splits(out)
    held_out = set(found['validation'])
    assert held_out == {f'photo{i:02}.jpg' for i in range(40) if is_held_out(f'photo{i:02}', 0.25)}
    assert 4 <= len(held_out) <= 16
    assert len(found['train']) == 40 - len(held_out)
    assert not held_out & set(found['train'])
    expected = {'share': 0.25, 'train': 40 - len(held_out), 'validation': len(held_out)}
    assert (
        result['held_out'] == json.loads((out / 'report.json').read_text())['held_out'] == expected
    )
    assert preparation.verify(str(out)) == 40
    text = prepared_report.describe(result, str(out))
    assert f'{len(held_out)} of 40 are held out, as split validation' in text
    assert 'Holds out about 10 of 40 samples' in capsys.readouterr().out
    words = word_counts.read(sources.open_folder(out))  # of the training split alone
    assert words['words'] == sum(len(word_counts.words_of(c)) for (c,) in found['train'].values())


def test_a_resume_gives_the_same_split(photos, tmp_path):
    source, held_out = table(photos), HeldOut(share=0.2)
    for name in ('whole', 'broken'):
        preparation.prepare(source, str(tmp_path / name), held_out=held_out, workers=1)
    broken = tmp_path / 'broken'
    next(broken.glob('pairs-validation*')).unlink()  # as if the process had ended between the two
    preparation.prepare(source, str(broken), held_out=held_out, workers=1)
    assert splits(broken) == splits(tmp_path / 'whole')
    with pytest.raises(UserError, match='holds another preparation'):
        preparation.prepare(source, str(broken), held_out=HeldOut(share=0.3), workers=1)
    with pytest.raises(UserError, match='holds another preparation'):
        preparation.prepare(source, str(broken), workers=1)


def test_tars_are_split_too(tmp_path):
    for i in range(2):
        corpus.good_tar(tmp_path / f'{i}.tar', 20, first=20 * i)
    source, out = str(tmp_path / '{0..1}.tar'), tmp_path / 'out'
    result = preparation.prepare(source, str(out), held_out=HeldOut(pairs=10), workers=1)
    assert 0.23 < result['held_out']['share'] < 0.27  # of an estimated number of samples
    found = splits(out)
    assert len(found['train']) + len(found['validation']) == 40
    assert result['held_out']['validation'] == len(found['validation']) > 0


def test_nothing_left_to_train_on(photos, tmp_path):
    rows = ['photo00.jpg,one', 'photo00.jpg,two', 'gone.jpg,three', 'gone2.jpg,four']
    share = 1 - 1e-9
    with pytest.raises(UserError, match='--held_out took all 1 samples'):
        preparation.prepare(
            table(photos, rows), str(tmp_path / 'out'), held_out=HeldOut(share=share), workers=1
        )
    assert not (tmp_path / 'out' / 'dataset_info.json').exists()


@pytest.mark.parametrize(
    ('held_out', 'words'),
    [
        (HeldOut(share=0.001), 'of 40 samples is less than one'),
        (HeldOut(pairs=40), 'leaves nothing of 40 samples'),
    ],
)
def test_splits_that_cannot_be(photos, tmp_path, held_out, words):
    with pytest.raises(UserError, match=words):
        preparation.prepare(table(photos), str(tmp_path / 'out'), held_out=held_out)
    assert not (tmp_path / 'out').exists()


def test_shares_and_numbers():
    assert held_out_split.parse('0.01') == HeldOut(share=0.01)
    assert held_out_split.parse('.5') == HeldOut(share=0.5)
    assert held_out_split.parse('1') == HeldOut(pairs=1)
    for text in ('0', '0.0', '1.5', '-1', 'ten', '', '1e-2', 'nan', '٣'):
        with pytest.raises(UserError, match='must be a share such as'):
            held_out_split.parse(text)


ONE = [
    *('a/Cat.JPG', 'a/cat.png', 'a/CAT', 'a/cat (1).jpg', 'a/cat_2.jpg', 'a/cat-2.webp'),
    *('a/cat-copy.jpg', 'a/cat copy 2.jpg', 'a/cat - Copy (3).jpg', 'a/Copy of cat.jpg'),
    *('a\\cat.jpg', 'a/cat.jpg.png', 'a/cat_2 (1).jpg', 'a/cat-copy_2.jpg'),
]
OTHERS = [
    *(
        'b/cat.jpg',
        'a/cat_10.jpg',
        'a/cat_01.jpg',
        'a/cat2.jpg',
        'a/photo (12).jpg',
        'a/copycat.jpg',
    ),
    *('a/(1).jpg', 'a/_2.jpg', 'a/000000012', 'https://x.example/i.php?id=1'),
    *('https://x.example/i.php?id=2', 'https://y.example/cat.jpg'),
]


def test_copies_of_one_image_have_one_key():
    assert {split_key(name) for name in ONE} == {'a/cat'}
    assert len({split_key(name) for name in OTHERS} | {'a/cat'}) == len(OTHERS) + 1
    assert split_key('https://y.example/Cat.jpg?w=100') == split_key('http://y.example/cat.jpg')
    assert split_key('e\u0301.jpg') == split_key('\u00e9.jpg')
    for share in (0.1, 0.5, 0.9):
        assert len({is_held_out(name, share) for name in ONE}) == 1


def test_the_share_is_met():
    taken = sum(is_held_out(f'{i:09}', 0.1) for i in range(20_000))
    assert abs(taken - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
