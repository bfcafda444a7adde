"""Token ids against OpenCLIP's."""

import html
import json
from pathlib import Path

import ftfy
import numpy as np
import pytest

from input_pipeline.tokenizer import END_OF_TEXT, START_OF_TEXT, encode, encode_batch, tokenize

FIGURES = json.loads((Path(__file__).parents[1] / 'data' / 'tokenizer_parity.json').read_text())


def test_agrees_with_open_clip():
    ids = tokenize([f['text'] for f in FIGURES])
    assert ids.dtype == np.int32
    assert ids.shape == (len(FIGURES), 77)
    for row, figure in zip(ids, FIGURES, strict=True):
        padded = figure['ids'] + [0] * (77 - len(figure['ids']))
        assert row.tolist() == padded, figure['text']


# Computed with OpenCLIP 3.3.0, as the figures in the file: where its pattern has its oddities.
@pytest.mark.parametrize(
    ('text', 'ids'),
    [
        ('<start_of_text><end_of_text>', [49406, 49407]),
        ('!<end_of_text>', [0, 283, 806, 318, 539, 318, 4160, 285]),  # within a run of signs: text
        ("don't it'ſ", [847, 713, 585, 6, 129, 379]),
        ('e\u0345!', [324, 256]),  # ftfy composes it with another letter, not with this one
    ],
)
def test_agrees_with_open_clip_in_odd_cases(text, ids):
    assert encode(text) == ids


def test_a_batch_gets_the_ids_of_its_texts():
    texts = [f['text'] for f in FIGURES]
    assert encode_batch(texts) == [encode(text) for text in texts]
    assert encode_batch([]) == []


@pytest.mark.parametrize('length', [2, 5, 16, 77])
def test_truncation_keeps_the_end_token(length):
    ids = tokenize(['a ' * 200, 'a'], length)
    assert ids.shape == (2, length)
    assert ids[0, 0] == START_OF_TEXT
    assert ids[0, -1] == END_OF_TEXT
    assert (ids[0] != 0).all()
    assert ids[1].argmax() == min(2, length - 1)


def test_plain_ascii_needs_no_mending():
    """The shortcut in `clean` relies on this."""
    rng = np.random.default_rng(0)
    alphabet = [chr(c) for c in range(0x20, 0x7F) if chr(c) != '&']
    for _ in range(500):
        text = ''.join(rng.choice(alphabet, 40))
        assert html.unescape(html.unescape(ftfy.fix_text(text))) == text


def test_no_text_and_empty_text():
    assert tokenize([]).shape == (0, 77)
    assert tokenize([''])[0, :3].tolist() == [START_OF_TEXT, END_OF_TEXT, 0]


def test_a_context_without_room_is_an_error():
    with pytest.raises(ValueError, match='context_length=1'):
        tokenize(['a'], 1)
