"""Files are replaced completely or not at all, and a refusal names the file and the remedy."""

import json

import pytest

from pgs.errors import UserError
from pgs.utils.files import absolute, replacing, write_json, writing


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
