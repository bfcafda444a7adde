"""The embedded data set: names, split and pixels."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline import openmoji
from input_pipeline.sources import open_builder
from input_pipeline.tokenizer import tokenize
from pgs.errors import UserError
from pgs.run import masks


def test_names():
    assert openmoji.name_of('🐸') == 'frog'
    assert openmoji.name_of('👩🏻\u200d⚖️') == 'woman judge light skin tone'
    assert openmoji.name_of('☀') == 'sun'  # listed only with a variation selector
    assert openmoji.name_of('xyz') is None


def test_split_holds_out_combinations_not_roles():
    train, held_out = openmoji.splits()['train'], openmoji.splits()['validation']
    assert len(train) + len(held_out) == 3953
    assert 380 < len(held_out) < 450
    names = [name for _, name in train + held_out]
    assert len(set(names)) == len(names)

    def role(stem):
        return openmoji.without_tone(''.join(chr(int(c, 16)) for c in stem.split('-')))

    trained_roles = {role(stem) for stem, _ in train}
    for stem, name in held_out:
        assert 'skin tone' in name
        assert role(stem) in trained_roles


def test_split_is_fixed():
    """A change here would make scores incomparable."""
    assert openmoji.splits()['validation'][0] == ('1F385-1F3FD', 'Santa Claus medium skin tone')
    assert len(openmoji.splits()['validation']) == 424


def test_opacity_is_the_object(tmp_path):
    rgba = openmoji.render('1F438', 64)
    assert rgba.shape == (64, 64, 4)
    white = openmoji.over_white(rgba)
    assert (white[rgba[..., 3] == 0] == 255).all()
    np.testing.assert_array_equal(white[rgba[..., 3] == 255], rgba[rgba[..., 3] == 255, :3])
    assert 0.2 < (rgba[..., 3] > 127).mean() < 0.9


def test_records_hold_what_was_rendered(train_source):
    assert len(train_source) == 3529
    record = train_source[11]
    stem = record['code_points'].decode()
    image = np.asarray(Image.open(io.BytesIO(record['image'])))
    np.testing.assert_array_equal(image, openmoji.over_white(openmoji.render(stem)))
    alpha = np.asarray(Image.open(io.BytesIO(record['alpha'])))
    np.testing.assert_array_equal(alpha, openmoji.render(stem)[..., 3])
    name = dict(openmoji.splits()['train'])[stem]
    captions = [c.decode() for c in record['captions']]
    assert captions == [t.format(name) for t in openmoji.TEMPLATES]


def test_captions_fit_the_quickstarts_context():
    from configs import quickstart

    length = quickstart.get_config().model.text.context_length
    names = [n for items in openmoji.splits().values() for _, n in items]
    longest = max(openmoji.TEMPLATES, key=len)
    used = (tokenize([longest.format(n) for n in names]) > 0).sum(axis=1)
    assert used.max() <= length


def test_building_is_atomic_and_happens_once(tmp_path, monkeypatch, capfd):
    items = {split: pairs[:5] for split, pairs in openmoji.splits().items()}
    monkeypatch.setattr(openmoji, 'splits', lambda: items)
    rendered = []
    real_render = openmoji.render

    def fail_at_third(stem):
        if len(rendered) == 2:
            raise KeyboardInterrupt
        rendered.append(stem)
        return real_render(stem)

    monkeypatch.setattr(openmoji, 'render', fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        openmoji.prepare(str(tmp_path))
    assert not (tmp_path / 'openmoji' / '1.0.0').exists()  # nothing that looks prepared

    monkeypatch.setattr(openmoji, 'render', real_render)
    builder = openmoji.prepare(str(tmp_path))
    assert builder.info.splits['train'].num_examples == 5
    assert 'Rendering' in capfd.readouterr().err  # the progress bar
    monkeypatch.setattr(openmoji, 'render', None)  # a second call opens the existing set
    assert openmoji.prepare(str(tmp_path)).is_prepared()


def test_missing_packages_are_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'resvg_py', None)
    monkeypatch.setitem(sys.modules, 'skimage', None)
    with pytest.raises(
        UserError, match=r"'openmoji' needs resvg-py, scikit-image: pip install 'clip-pgs\[quickst"
    ):
        open_builder('openmoji', '', str(tmp_path))
    assert not (tmp_path / 'openmoji').exists()


def test_without_the_packages_there_are_no_known_objects(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'resvg_py', None)
    assert masks.known_objects(None, 32) is None
    assert 'measuring object retention needs resvg-py' in capsys.readouterr().out
