"""The comparison of masks: a table of finished runs, continued after a break."""

import json
from types import SimpleNamespace

import pytest
from conftest import shrunk_quickstart
from programs import load_benchmark as load

from pgs.errors import UserError


@pytest.mark.slow
def test_compares_and_continues(tmp_path, monkeypatch, capsys):
    compare = load('compare')

    def given(**values):
        for name, value in values.items():
            monkeypatch.setattr(compare, name, SimpleNamespace(value=value))

    given(CONFIG=shrunk_quickstart(total_steps=2), OUT=str(tmp_path), STRATEGIES=[])
    with pytest.raises(UserError, match='--strategies is missing'):
        compare.main([])
    given(STRATEGIES=['none', 'pgs'])
    compare.main([])
    first = json.loads((tmp_path / 'compare.json').read_text())
    assert list(first) == ['none', 'pgs']
    assert first['none']['mask_ratio_mean'] == 0.0
    assert 0.3 <= first['pgs']['mask_ratio_mean'] <= 0.5
    assert set(first['pgs']) >= {'text_recall@5', 'image_recall@5', 'seconds_per_step', 'loss'}
    assert 'Trained 2 steps' in capsys.readouterr().out
    compare.main([])
    assert json.loads((tmp_path / 'compare.json').read_text()) == first
    printed = capsys.readouterr().out
    assert 'Trained' not in printed  # nothing is trained again
    assert printed.count('none') >= 2
