"""The benchmark of starvation on a few images, with the weights of a small model."""

import json

import numpy as np
from PIL import Image
from programs import load_benchmark as load

from pgs.masking import known_strategies


def test_sets_and_paper_model():
    starvation = load('starvation')
    sets = starvation.image_sets(224, 6)
    assert list(sets) == ['OpenMoji over white', 'OpenMoji over photographs', 'photographs']
    for images in sets.values():
        assert (images.shape, images.dtype) == ((6, 224, 224, 3), np.uint8)
        assert len({image.tobytes() for image in images}) == 6
    corners = sets['OpenMoji over white'][:, 0, 0]
    assert (corners == 255).all()
    for name in ('OpenMoji over photographs', 'photographs'):
        assert (sets[name][:, 0, 0] != 255).any()
    model = starvation.paper_model()
    params = starvation.untrained(model)
    embeddings = starvation.patch_embeddings(model, params, np.zeros((2, 224, 224, 3), np.float32))
    assert embeddings.shape == (2, 196, 768)
    assert np.isfinite(embeddings).all()


def test_table_and_files_of_a_checkpoint(untrained_clip, tmp_path, capsys):
    starvation = load('starvation')
    sets, seen = starvation.measure_all(str(untrained_clip), None, count=2, draws=3)
    rows = [name.rsplit(', ', 1) for name in seen]
    assert {kind for _, kind in rows} == {'untrained', 'trained'}
    assert {row.split()[0] for row, _ in rows} == set(known_strategies())
    for by_set in seen.values():
        assert all(values.shape == (2, 16) for values in by_set.values())
    pgs = [by_set for name, by_set in seen.items() if name.startswith('pgs')]
    assert any((pgs[0][name] != pgs[1][name]).any() for name in sets)  # other embeddings

    lines = starvation.markdown_table(seen).splitlines()
    assert (
        lines[0] == '| strategy | OpenMoji over white | OpenMoji over photographs | photographs |'
    )
    assert len(lines) == 2 + len(seen)
    assert '| none, trained | 0.0 % | 0.0 % | 0.0 % |' in lines
    path = tmp_path / 'figure.png'
    starvation.seen_figure(sets, seen).savefig(path, dpi=50)
    assert np.asarray(Image.open(path).convert('RGB')).std() > 20
    assert f'{rows[0][0]}: 3 draws of each image' in capsys.readouterr().out


def test_command_writes_json_and_figure(tmp_path, monkeypatch, capsys):
    starvation = load('starvation')
    monkeypatch.setattr(starvation, 'measure_all', lambda *_: given())

    def given():
        sets = {'photographs': np.zeros((1, 8, 8, 3), np.uint8)}
        return sets, {'x 0.5': {'photographs': np.array([[0.0, 1.0, 0.5, 0.04]])}}

    holders = {'OUT': str(tmp_path / 'new' / 'a.json'), 'IMAGES': 1, 'DRAWS': 7}
    for name, value in (holders | {'CHECKPOINT': None, 'MODEL_CONFIG': None}).items():
        monkeypatch.setattr(starvation, name, type('Given', (), {'value': value}))
    starvation.main([''])
    assert '| x 0.5 | 50.0 % |' in capsys.readouterr().out
    result = json.loads((tmp_path / 'new' / 'a.json').read_text())
    assert (result['images'], result['draws'], result['checkpoint']) == (1, 7, None)
    assert result['starved'] == {'x 0.5': {'photographs': 0.5}}
    assert (tmp_path / 'new' / 'a.png').read_bytes()[:4] == b'\x89PNG'
