"""No load path unpickles: a pickle is a program, which runs when it is read."""

import ast
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.labels import read_label
from pgs.convert.tensors import read_tensors
from pgs.errors import UserError
from pgs.evaluate import feature_cache

ROOT = Path(__file__).parents[1]


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def payload(tmp_path):
    """A pickle that would create tmp_path/hacked; checks afterwards that it did not."""
    yield Payload(tmp_path / 'hacked')
    assert not (tmp_path / 'hacked').exists()


def test_the_payload_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / 'hacked')))
    assert (tmp_path / 'hacked').is_dir()


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin', '.safetensors'])
@pytest.mark.parametrize('zipped', [False, True])
def test_weights_with_a_pickle_are_refused(payload, tmp_path, suffix, zipped):
    """With and without PyTorch; torch.save writes a zip."""
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(pickle.dumps({'state_dict': {'a': payload}}, protocol=2))
    if zipped:
        content = path.read_bytes()
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('weights/data.pkl', content)
            archive.writestr('weights/version', '3\n')
    with pytest.raises(UserError, match='weights'):
        read_tensors(path)


def object_array(payload: Payload) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = payload
    return array


def test_a_label_with_objects_is_refused(payload):
    buffer = io.BytesIO()
    np.save(buffer, object_array(payload))
    for content in (buffer.getvalue(), pickle.dumps(payload)):
        with pytest.raises(ValueError, match='pickled ones are never loaded'):
            read_label('multilabel', content, 1)


def test_cached_features_with_objects_are_computed_again(payload, tmp_path, capsys):
    cached = feature_cache.cache_in(tmp_path, 'set', 'id')
    expected = np.ones((2, 3)), np.zeros(2)
    path = tmp_path / 'set-train-id.npz'
    np.savez(path, features=object_array(payload), labels=np.zeros(1))
    hostile = path.read_bytes()
    for content in (hostile, pickle.dumps(payload), hostile[:100], b''):
        path.write_bytes(content)
        features, _ = cached('train', lambda: expected)
        np.testing.assert_array_equal(features, expected[0])
        assert 'its features are computed again' in capsys.readouterr().out
    features, _ = cached('train', lambda: pytest.fail('is cached'))
    np.testing.assert_array_equal(features, expected[0])


def test_no_module_can_unpickle():
    """No import of a library that runs what it reads, and no call that allows it."""
    found = []
    for file in [
        ROOT / 'main.py',
        *(p for d in ('pgs', 'input_pipeline') for p in (ROOT / d).rglob('*.py')),
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, 'module', '')}
                if names & {'pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve'}:
                    found.append(f'{file}:{node.lineno}')
            if isinstance(node, ast.Call):
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                name = ast.unparse(node.func)
                if (
                    options.get('allow_pickle', 'False') != 'False'
                    or (name == 'torch.load' and options.get('weights_only') != 'True')
                    or name in ('eval', 'exec', 'yaml.load', 'np.lib.format.read_array')
                ):
                    found.append(f'{file}:{node.lineno}')
    assert not found, found
