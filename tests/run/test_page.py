"""report.html: what is on it, what is escaped, and runs of which parts are missing."""

import json
from html.parser import HTMLParser

import pytest
from programs import load_program, run_program

from pgs.errors import UserError
from pgs.run import page, page_curves
from pgs.utils.files import is_number


def make_run(folder, *, scale=1.0, steps=20, config=None):
    """A folder with the files of a run; returns it."""
    (folder / 'figures').mkdir(parents=True)
    records = [
        {'step': i, 'loss': scale * (3 - i / 20), 'mask_ratio': 0.4, 'learning_rate': 1e-3}
        for i in range(1, steps + 1)
    ]
    records.append({'step': steps, 'eval/text_recall@5': 0.25, 'eval/image_recall@5': 0.2})
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
    results = {'step': steps, 'loss': scale, 'val_loss': None, 'text_recall@5': 0.25}
    (folder / 'results.json').write_text(json.dumps(results))
    config = config or {'seed': 0, 'masking': {'strategy': 'pgs', 'mask_ratio': 0.5}}
    (folder / 'config.json').write_text(json.dumps(config))
    start = {'python': '3.13.0', 'packages': {'jax': '0.12'}, 'config': config}
    (folder / 'environment.json').write_text(json.dumps({'starts': [start]}))
    (folder / 'figures' / 'masks.png').write_bytes(b'\x89PNG')
    return folder


class Balance(HTMLParser):
    """Checks that every element is closed where it must be, and keeps texts and links."""

    EMPTY = ('meta', 'img', 'br')

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.sources = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ('src', 'href', 'xlink:href')]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ('src', 'href', 'xlink:href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_page_of_one_run_holds_all_its_parts_and_loads_nothing(tmp_path):
    said = []
    run = page.read_run(make_run(tmp_path / 'one'), said.append)
    assert said == []
    html = page.page([run])
    found = Balance(html)
    for words in ('one', 'Scores', '0.25', 'masking.strategy', 'pgs', '3.13.0', 'jax', page.ABSENT):
        assert words in found.texts, words
    outside = [s for s in found.sources if not s.startswith(('data:image/png;base64,', '#'))]
    assert outside == []
    assert 'prefers-color-scheme: dark' in html
    assert 'currentColor' in html
    assert page_curves.INK not in html


def test_texts_of_a_run_are_escaped(tmp_path):
    hostile = '<script>alert(1)</script>$x$ & "y"'
    folder = make_run(tmp_path / '<b>one', config={'note': hostile, hostile: 1})
    found = Balance(page.page(page.read_runs([str(folder), str(folder)], print)))
    assert 'script' not in found.open
    assert hostile in found.texts
    assert '<script>' not in page.page([page.read_run(folder, print)])


def test_several_runs_are_overlaid_and_what_differs_is_named(tmp_path):
    other = {'seed': 1, 'masking': {'strategy': 'pgs', 'mask_ratio': 0.5}}
    folders = [
        str(make_run(tmp_path / 'a' / 'run')),
        str(make_run(tmp_path / 'b' / 'run', scale=2.0, config=other)),
    ]
    runs = page.read_runs(folders, print)
    assert [run.name for run in runs] == folders  # one name would not tell them apart
    part = page.config_part([r.name for r in runs], [r.config for r in runs])
    first = part.split('<details>')[0]
    assert 'seed' in first
    assert 'masking' not in first


def test_parts_that_are_missing_or_damaged_cost_a_line_each(tmp_path):
    folder, empty = make_run(tmp_path / 'one'), tmp_path / 'empty'
    empty.mkdir()
    (folder / 'figures' / 'masks.png').unlink()
    (folder / 'environment.json').unlink()
    (folder / 'results.json').write_text('[1]')
    said = []
    (run,) = page.read_runs([str(empty), str(folder)], said.append)
    assert run.masks is None
    assert [line.split(':')[0] for line in said] == ['note'] + ['warning'] * 2 + ['note'] * 2
    assert any('empty is no run' in line for line in said)
    assert 'no figure of masks' in page.page([run])
    with pytest.raises(UserError, match='no folder of a run'):
        page.read_runs([str(empty)], said.append)


def test_long_curves_are_thinned_and_keep_their_end():
    points = [(i, float(i)) for i in range(10_001)]
    thin = page_curves.thinned(points)
    assert len(thin) <= page_curves.MAX_POINTS + 1
    assert thin[-1] == points[-1]
    assert page_curves.thinned(points[:10]) == points[:10]
    assert not is_number(float('nan'))


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys):
    one, two = make_run(tmp_path / 'one'), make_run(tmp_path / 'two')
    monkeypatch.chdir(tmp_path)
    load_program('pgs.report.__main__')
    run_program('pgs.report.__main__', str(one))
    assert (one / 'report.html').is_file()
    run_program('pgs.report.__main__', str(one), str(two))
    assert (tmp_path / 'report.html').is_file()
    assert f'Page: {tmp_path}/report.html' in capsys.readouterr().out
    with pytest.raises(UserError, match='is a folder and others are files'):
        run_program('pgs.report.__main__', str(one), str(two / 'results.json'))
    with pytest.raises(UserError, match=r'must end in \.html'):
        run_program('pgs.report.__main__', str(one), f'--html={tmp_path}/x.png')
