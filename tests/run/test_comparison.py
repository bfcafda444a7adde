"""The words about the mask at the end of the quickstart's run, and the table that they quote."""

import json
import re
from pathlib import Path

import pytest

from configs import quickstart
from pgs.run import comparison

ROOT = Path(__file__).parents[2]
COMPARED = {
    'none': {'text_recall@5': 0.5, 'image_recall@5': 0.7, 'seconds_per_step': 0.9},
    'random': {'text_recall@5': 0.4, 'image_recall@5': 0.5, 'seconds_per_step': 0.5},
    'pgs': {'text_recall@5': 0.6, 'image_recall@5': 0.6, 'seconds_per_step': 0.6},
}


def test_words():
    lines = comparison.words(COMPARED, 'pgs', {'text_recall@5': 0.5, 'image_recall@5': 0.6})
    assert lines[:3] == [
        'This run finds 55.0% (recall@5, mean of both directions).',
        'Without a mask the same run takes 1.50 times as long and finds 60.0%.',
        'With the mask random the same run takes 0.83 times as long and finds 45.0%.',
    ]


def test_only_the_quickstart_is_compared():
    config = quickstart.get_config()
    config.total_steps = 400
    results = {'text_recall@5': 0.5, 'image_recall@5': 0.6}
    assert len(comparison.comparison_lines(config, results)) == 4
    config.log_every = 1  # changes nothing that is computed
    assert len(comparison.comparison_lines(config, results)) == 4
    config.total_steps = 20
    assert comparison.comparison_lines(config, results) == []


def test_the_documented_table_is_the_measured_one():
    """docs/compare.json against the table of docs/masking.md."""
    compared = json.loads((ROOT / 'docs' / 'compare.json').read_text())
    text = (ROOT / 'docs' / 'masking.md').read_text()
    for name, figures in compared.items():
        found = re.search(rf'^\| `{name}` \| ([\d.]+) \| ([\d.]+) / ([\d.]+) \|', text, re.M)
        assert found, f'docs/masking.md has no row of {name}'
        loss, *recalls = map(float, found.groups())
        assert loss == pytest.approx(figures['loss'], abs=6e-4)
        for recall, key in zip(recalls, ('text_recall@5', 'image_recall@5'), strict=True):
            assert recall == pytest.approx(100 * figures[key], abs=0.06)
