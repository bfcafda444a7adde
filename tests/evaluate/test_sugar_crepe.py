"""SugarCrepe's score, computed by hand, and its files."""

import json

import numpy as np
import pytest

from pgs.errors import UserError
from pgs.evaluate.sugar_crepe import prefer_captions, read_images, read_items

TEXTS = {'up': [0.0, 1.0], 'right': [1.0, 0.0], 'left': [-1.0, 0.0]}


def test_a_tie_counts_for_the_caption():
    batches = [
        (np.array([[0.0, 1.0], [1.0, 0.0]]), [('up', 'right'), ('left', 'right')]),
        (np.array([[0.0, 1.0]]), [('left', 'right')]),
    ]
    metrics = prefer_captions(
        batches, lambda images: images, lambda texts: np.array([TEXTS[t] for t in texts])
    )
    assert metrics == {'acc': pytest.approx(2 / 3), 'n': 3}


def entry(name, **more):
    return {'filename': name, 'caption': 'a dog', 'negative_caption': 'a cat'} | more


def test_items_as_published(tmp_path):
    (tmp_path / 'val2017').mkdir()
    (tmp_path / 'val2017' / 'x.jpg').write_bytes(b'bytes')
    # ids need not be contiguous
    (tmp_path / 'add_obj.json').write_text(json.dumps({'0': entry('x.jpg'), '7': entry('x.jpg')}))
    items = read_items(tmp_path, 'add_obj')
    assert [(i.caption, i.negative) for i in items] == [('a dog', 'a cat')] * 2
    assert next(read_images(items))[1:] == (b'bytes', ('a dog', 'a cat'))


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('no json', 'cannot read'),
        ('[1]', 'cannot read'),
        ('{}', 'holds no item'),
        (json.dumps({'0': {'filename': 'x.jpg'}}), 'lacks .caption'),
        (json.dumps({'0': entry('absent.jpg')}), r'absent\.jpg is missing'),
        (json.dumps({'0': entry('x' * 5000)}), 'File name too long'),
        (json.dumps({'0': entry('a\0b')}), 'is not a text'),
        (json.dumps({'0': entry(7)}), 'is not a text'),
        ('["\\ud800"]', 'half a surrogate pair'),
    ],
)
def test_bad_files_are_named(tmp_path, content, words):
    (tmp_path / 'add_obj.json').write_text(content)
    with pytest.raises(UserError, match=words):
        read_items(tmp_path, 'add_obj')
