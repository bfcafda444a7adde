"""Token ids against OpenCLIP's own tokenizer, on many captions that are made here."""

import unicodedata

import numpy as np
import pytest

from input_pipeline import openmoji
from input_pipeline.tokenizer import encode_batch

open_clip_tokenizer = pytest.importorskip('open_clip.tokenizer')

SIGNS = list("'’ſ.,!?;:-_()<>&#0123456789abst ")
PARTS = [
    "don't",
    "it's",
    'HE’LL',
    '&amp;eacute;',
    '&lt;b&gt;',
    'cafÃ©',
    '<end_of_text>',
    'Straße',
    '½',
    'e\u0301',
]


def make_captions(count: int) -> list[str]:
    """Names of emoji, any characters of Unicode, runs of signs, and HTML and wrong decodings."""
    rng = np.random.default_rng(0)
    names = [name for _, name in openmoji.splits()['train']]
    # Which unassigned characters are letters depends on the Unicode version of each library.
    letters = [c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] in 'LMNPSZ']
    letters += list('\t\n\x00\u200b\u2028')
    kinds = [(names, 3), (letters, 20), (SIGNS, 30), (PARTS + names[:9], 12), (['ha', 'xyz'], 90)]
    joins = ['', ' ', ' ']
    return [
        joins[i % 3].join(rng.choice(kinds[i % 5][0], rng.integers(1, kinds[i % 5][1] + 1)))
        for i in range(count)
    ]


def test_agrees_with_open_clip_on_any_text():
    theirs = open_clip_tokenizer.SimpleTokenizer()
    captions = make_captions(5000)
    for caption, ids in zip(captions, encode_batch(captions), strict=True):
        assert ids == theirs.encode(caption), repr(caption)
