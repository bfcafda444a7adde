"""The summary of a prepared folder."""

import corpus
import numpy as np
import pytest
from PIL import Image

from input_pipeline import inspection, preparation
from pgs.errors import UserError


@pytest.fixture
def prepared(tmp_path):
    members = [
        m
        for i in range(60)
        for m in corpus.pair(f'{i:03}', corpus.encoded(corpus.photo(i)), b'word ' * (1 + i // 10))
    ]
    members += corpus.pair('long', corpus.encoded(corpus.photo(0)), b'word ' * 200)
    corpus.write_tar(tmp_path / '0.tar', members)
    preparation.prepare(str(tmp_path / '0.tar'), str(tmp_path / 'out'), workers=1)
    return tmp_path / 'out'


def test_counts_lengths_and_sheet(prepared):
    text = inspection.inspect(str(prepared), None, 1000)
    assert '61 records, 61 read, 0 broken' in text
    assert 'median 120 x 90 pixels' in text
    assert '1.6% longer than 77 tokens' in text  # one of 61
    bars = {
        line.split()[0]: int(line.split()[1])
        for line in text.splitlines()
        if line[2:5].strip().isdigit()
    }
    assert bars['0-6'] == 40  # 3 to 6 tokens: one to four words, start and end
    assert bars['7-13'] == 20
    assert bars['77-83'] == 1
    sheet = np.asarray(Image.open(prepared / 'contact_sheet.png').convert('RGB'))
    assert sheet.std() > 20


def test_broken_records_are_counted_by_place(prepared):
    shard = next(prepared.glob('*.array_record-*'))
    content = bytearray(shard.read_bytes())
    content[30_000:32_000] = b'\xa5' * 2000
    shard.write_bytes(content)
    text = inspection.inspect(str(prepared), None, 1000)
    broken = int(text.split(' read, ')[1].split()[0])
    assert 1 <= broken < 10
    assert text.count('  broken: record ') == broken


def test_a_sample_is_spread_evenly(prepared):
    assert '61 records, 10 read, 0 broken' in inspection.inspect(str(prepared), None, 10)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match='is not a prepared data set'):
        inspection.inspect(str(tmp_path), None, 10)


def test_a_sheet_that_cannot_be_written(prepared, tmp_path):
    with pytest.raises(UserError, match='give another --sheet'):
        inspection.inspect(str(prepared), str(tmp_path / 'absent' / 'sheet.png'), 10)
