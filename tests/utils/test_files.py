"""Files are replaced completely or not at all, and a refusal names the file and the remedy."""

import json
import os

import pytest

from pgs.errors import UserError
from pgs.utils import files
from pgs.utils.files import absolute, read_json, replacing, write_json, writing


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / 'a.json'
    write_json(path, {'x': 1})

    def fail_halfway():
        with replacing(path) as file:
            file.write(b'half')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert json.loads(path.read_text()) == {'x': 1}
    write_json(path, {'x': 2})
    assert json.loads(path.read_text()) == {'x': 2}


def test_a_refusal_names_the_target_the_reason_and_the_remedy(tmp_path):
    (tmp_path / 'file').touch()
    with (
        pytest.raises(UserError, match=r'^cannot write --out=x \(Not a directory\): give another'),
        writing('--out=x'),
    ):
        write_json(tmp_path / 'file' / 'a.json', {})


def test_addresses_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(absolute('a/b')) == str(tmp_path / 'a' / 'b')
    assert str(absolute('gs://bucket/run')) == 'gs://bucket/run'


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'{"a": \xff}' + b'x' * 10_000, 'not UTF-8 at byte 6'),
        (b'[' * 100_000, 'nested too deeply'),
        (b'["\\ud800"]', 'half a surrogate pair'),
        (b'9' * 5000, 'integer string'),
        (b'{"a": 1', 'delimiter'),
        (b'', 'Expecting value'),
        (b'[' + b' ' * 2000 + b'1]', 'larger than'),
    ],
)
def test_json_that_cannot_be_used_is_refused_in_a_few_words(tmp_path, monkeypatch, content, words):
    (tmp_path / 'a.json').write_bytes(content)
    if words == 'larger than':
        monkeypatch.setattr(files, 'MAX_SMALL_BYTES', 2000)
    with pytest.raises(ValueError, match=words) as error:
        read_json(tmp_path / 'a.json')
    assert len(str(error.value)) < 200


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'a.json')
    with pytest.raises(OSError, match='it is a named pipe, not a file'):
        read_json(tmp_path / 'a.json')
    (tmp_path / 'b.json').write_text('["\\ud83d\\ude00", 1]')
    assert read_json(tmp_path / 'b.json') == ['\U0001f600', 1]
