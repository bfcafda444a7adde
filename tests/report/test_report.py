"""The paper's published figures, and the report that shows ours below them."""

import io
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import preloaded
import pytest
from PIL import Image

from pgs.errors import UserError
from pgs.evaluate.tasks import GROUPS
from pgs.report import figures, paper_tables, peers, results, tables
from pgs.report.paper_tables import CLASSIFICATION, RETRIEVAL, ROBUSTNESS, SUGAR_CREPE, TABLES
from pgs.report.run import report

ROOT = Path(__file__).resolve().parents[2]
METHODS = ['CLIP', 'FLIP', 'A-CLIP', 'E-CLIP', 'PGS-0.5', 'PGS-0.3']
# Published means that differ from the mean of their row (pgs/report/paper_tables.py gives both).
INCONSISTENT_MEANS = {
    ('CLIP', 'OOD mean'),
    ('A-CLIP', 'OOD mean'),
    ('CLIP', 'object mean'),
    ('A-CLIP', 'object mean'),
    ('E-CLIP', 'attribute mean'),
}


def accuracies(tasks: list[str], share: float = 0.5) -> dict:
    return {task: {'metrics': {'acc1': share, 'acc': share}} for task in tasks}


def write_results(path: Path, name: str, tasks: dict, **more) -> str:
    path.parent.mkdir(exist_ok=True)
    content = {'name': name, 'checkpoint': f'runs/{name}, step 7', 'tasks': tasks, 'missing': {}}
    path.write_text(json.dumps(content | more))
    return str(path)


def grid_rows(table, *paths: str) -> dict[str, list[tables.Cell]]:
    """Name of a row -> its cells."""
    grid = tables.build_grid(table, results.read_all(list(paths)))
    return {row[0].text: row[1:] for row in grid.rows}


def test_every_published_figure():
    text = (ROOT / 'tests' / 'data' / 'paper_tables.md').read_text()
    sections = text.split('\n## ')[1:]
    assert len(sections) == len(TABLES)
    for section, table in zip(sections, TABLES, strict=True):
        rows = [line.strip('| ').split('|') for line in section.splitlines() if '|' in line][2:]
        assert [row[0].strip() for row in rows] == METHODS == list(table.rows)
        for name, *cells in rows:
            published = [float(figure) for cell in cells for figure in cell.split()]
            if table is CLASSIFICATION:
                assert published.pop(0) == paper_tables.RELATIVE_TRAINING_TIME[name.strip()]
            assert list(table.rows[name.strip()]) == published, (table.title, name)


def test_published_means_are_those_of_their_row():
    inconsistent = set()
    for table in TABLES:
        by_task = {c.tasks[0]: i for i, c in enumerate(table.columns) if not c.is_mean}
        for name, row in table.rows.items():
            assert len(row) == len(table.columns)
            for column, published in zip(table.columns, row, strict=True):
                if column.is_mean:
                    figure = np.mean([row[by_task[task]] for task in column.tasks])
                    # Each figure is rounded to one decimal, and so is the mean: 0.05 twice.
                    if abs(figure - published) > 0.1 + 1e-9:
                        inconsistent.add((name, column.heading))
    assert inconsistent == INCONSISTENT_MEANS


def test_what_each_mean_is_over():
    sets = {
        c.heading: [task.split('/')[1] for task in c.tasks]
        for table in TABLES
        for c in table.columns
        if c.is_mean
    }
    assert len(sets['mean']) == len(set(sets['mean'])) == 17
    assert sets['OOD mean'] == [s for s in sets['all mean'] if s != 'imagenet1k']
    assert len(sets['OOD mean']) == 5
    assert sets['object mean'] == ['replace_obj', 'swap_obj', 'add_obj']
    assert sets['attribute mean'] == ['replace_att', 'swap_att', 'add_att']
    assert sets['relation mean'] == ['replace_rel']


def test_published_recall_grows_with_k():
    for row in RETRIEVAL.rows.values():
        assert (np.diff(np.reshape(row, (6, 3)), axis=1) > 0).all()


def test_shares_become_percent_in_their_columns(tmp_path):
    metrics = {
        f'{found}_retrieval_recall@{k}': 0.001 * k + (0.5 if found == 'text' else 0.2)
        for found in ('text', 'image')
        for k in (1, 5, 10)
    }
    path = write_results(tmp_path / 'r.json', 'ours', {'retrieval/flickr8k': {'metrics': metrics}})
    texts = [cell.text for cell in grid_rows(RETRIEVAL, path)['ours']]
    absent = ['-'] * 3
    assert texts[:9] == [*absent, '50.1', '50.5', '51.0', *absent]
    assert texts[9:] == [*absent, '20.1', '20.5', '21.0', *absent]


def test_a_mean_needs_all_of_its_sets(tmp_path):
    shares = {
        'imagenet1k': 0.9,
        'imagenetv2': 0.1,
        'imagenet-a': 0.2,
        'imagenet-r': 0.3,
        'imagenet-o': 0.4,
        'imagenet_sketch': 0.5,
    }
    tasks = {f'zeroshot/{name}': {'metrics': {'acc1': share}} for name, share in shares.items()}
    full = write_results(tmp_path / 'full.json', 'full', tasks)
    no_ood = {task: entry for task, entry in tasks.items() if task != 'zeroshot/imagenet-o'}
    lacking = write_results(tmp_path / 'lacking.json', 'lacking', no_ood)
    del tasks['zeroshot/imagenet1k']
    ood = write_results(tmp_path / 'ood.json', 'ood', tasks)
    rows = grid_rows(ROBUSTNESS, full, lacking, ood)
    assert [cell.text for cell in rows['full'][-2:]] == ['40.0', '30.0']
    assert [cell.text for cell in rows['lacking'][-2:]] == ['-', '-']
    assert [cell.text for cell in rows['ood'][-2:]] == ['-', '30.0']
    notes = tables.build_grid(ROBUSTNESS, results.read_all([full, lacking, ood])).notes
    assert [note.split(' sets')[0] for note in notes] == ['lacking has 5 of 6', 'ood has 5 of 6']
    assert rows['CLIP'][-1].text == '29.0'  # as published, whatever the row's mean is


def test_the_best_are_marked_and_ties_all(tmp_path):
    # 88.15 is shown as the paper's best of STL10, 88.2: what looks alike is marked alike.
    tasks = accuracies(['zeroshot/stl10'], 0.88151) | accuracies(['zeroshot/cars'], 0.2)
    path = write_results(tmp_path / 'r.json', 'ours', tasks | accuracies(['zeroshot/dtd'], 0.0))
    rows = grid_rows(CLASSIFICATION, path)
    headings = ['R.T.T.', *(column.heading for column in CLASSIFICATION.columns)]

    def best(heading):
        return [name for name, row in rows.items() if row[headings.index(heading)].is_best]

    assert best('STL10') == ['PGS-0.5', 'PGS-0.3', 'ours']
    assert best('Cars') == ['ours']
    assert best('DTD') == ['PGS-0.3']
    assert best('Food101') == ['PGS-0.3']  # ours has no such cell
    assert best('R.T.T.') == []


def test_training_time_is_shown_where_it_is_known(tmp_path):
    tasks = accuracies(['zeroshot/stl10'])
    timed = write_results(tmp_path / 'a.json', 'timed', tasks, relative_training_time=0.61)
    untimed = write_results(tmp_path / 'b.json', 'untimed', tasks)
    rows = grid_rows(CLASSIFICATION, timed, untimed)
    assert [rows[name][0].text for name in ('A-CLIP', 'timed', 'untimed')] == ['1.1', '0.6', '-']


def test_peers_have_marked_rows_and_footnotes(tmp_path):
    tasks = accuracies([*GROUPS['robustness'], 'zeroshot/dtd', 'sugar_crepe/add_att'], 0.4)
    rows = results.read_all([write_results(tmp_path / 'r.json', 'ours', tasks)])

    def shown(table):
        grid = tables.build_grid(table, rows)
        headings = grid.headings[1:]
        figures = {
            row[0].text: {
                h: c.text for h, c in zip(headings, row[1:], strict=True) if c.text != '-'
            }
            for row in grid.rows[len(METHODS) :]
        }
        assert [row[0].text for row in grid.rows[: len(METHODS)]] == METHODS
        assert grid.published == len(grid.rows) - 1
        return figures, [note[:3] for note in grid.footnotes]

    (peer_figures, footnotes) = shown(ROBUSTNESS)
    assert list(peer_figures) == ['CLIPF [1]', 'GLIP [2]', 'ours']
    assert peer_figures['CLIPF [1]'] == {'IN-1K': '39.8'}
    assert peer_figures['GLIP [2]'] == {'IN-1K': '37.1'}
    assert footnotes == ['[1]', '[2]']
    peer_figures, footnotes = shown(CLASSIFICATION)
    assert peer_figures['PowerCLIP [3]'] == {'mean': '42.2'}
    assert footnotes == ['[3]']
    peer_figures, footnotes = shown(SUGAR_CREPE)
    assert (list(peer_figures), footnotes) == (['ours'], [])

    text = report([str(tmp_path / 'r.json')], None, None, 80)
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith('['))
    markdown = (tmp_path / 'report.md').read_text()
    for page in (' '.join(text.split()), markdown.replace('\\', '')):
        assert all(page.count(peer.note) == 1 for peer in peers.PEERS)


def test_every_peer_figure_has_its_column():
    headings = {table.title: [c.heading for c in table.columns] for table in TABLES}
    for number, peer in enumerate(peers.PEERS, 1):
        assert peer.row == f'{peer.name} [{number}]'
        assert peer.note.startswith(f'[{number}] ')
        for title, row in peer.figures.items():
            assert row.keys() <= set(headings[title])


def test_our_row_never_replaces_a_peer(tmp_path):
    paths = [
        write_results(tmp_path / f'{i}.json', name, accuracies(['zeroshot/imagenet1k']))
        for i, name in enumerate(('CLIPF', 'GLIP [2]'))
    ]
    assert [r.name for r in results.read_all(paths)] == ['CLIPF (ours)', 'GLIP [2] (ours)']


def test_terminal_wraps_and_bolds(tmp_path):
    tasks = accuracies(GROUPS['classification'], 0.9)
    grid = tables.build_grid(
        CLASSIFICATION, results.read_all([write_results(tmp_path / 'r.json', 'ours', tasks)])
    )
    wide = tables.terminal_text(grid, None, bold=False)
    assert '\x1b' not in wide
    assert wide.count('\nours') == 1
    narrow = tables.terminal_text(grid, 80, bold=True)
    blocks = narrow.split('\n\n')
    assert len(blocks) > 1
    assert all('\nours' in block and '\nCLIP' in block for block in blocks)
    bare = re.sub(r'\x1b\[\d*m', '', narrow)
    assert max(len(line) for line in bare.splitlines()) <= 80
    assert narrow.count('\x1b[1m') == 18  # ours leads in all 17 and in the mean
    # Every number once, as in the wide table; the digits of a method's name follow a hyphen.
    number = re.compile(r'(?<= )\d+\.\d')
    assert sorted(number.findall(bare)) == sorted(number.findall(wide))


def test_files_beside_the_first(tmp_path):
    tasks = accuracies([*GROUPS['classification'][:4], 'zeroshot/voc2007_multilabel'], 0.9)
    first = write_results(tmp_path / 'a' / 'results.json', 'a|b_$c', tasks)
    second = write_results(tmp_path / 'b' / 'results.json', 'CLIP', accuracies(['zeroshot/dtd']))
    text = report([first, second], None, None, None)
    markdown = (tmp_path / 'a' / 'report.md').read_text()
    assert sorted(p.name for p in tmp_path.glob('*/*')) == [
        'report.md',
        'report.png',
        'results.json',
        'results.json',
    ]
    rows = [line for line in markdown.splitlines() if line.startswith('| ')]
    assert len(rows) == 11  # heading, rule, six of the paper, PowerCLIP, two of ours
    ours = rows[-2]
    assert ours.startswith(r'| a\|b\_$c | - | **90.0** | **90.0** | **90.0** | **90.0** | - |')
    assert rows[-1].startswith('| CLIP (ours) | ')
    assert len({len(re.split(r'(?<!\\)\|', row)) for row in rows}) == 1
    for words in (
        'a|b_$c has 4 of 17 sets',
        'in no table: zeroshot/voc2007_multilabel',
        'Linear probe, top-1: left out',
        'SugarCrepe (compositionality), accuracy: left out',
        'runs/a|b_$c, step 7',
    ):
        assert words in text
    assert 'Zero-shot classification, top-1: left out' not in text


def draw(*paths: str):
    rows = results.read_all(list(paths))
    values = [(table, results.percentages(table, rows)) for table in TABLES]
    return figures.comparison_figure(values, [r.name for r in rows])


def test_radar_of_five_sets(tmp_path):
    tasks = accuracies(GROUPS['classification'][:5], 0.25)
    path = write_results(tmp_path / 'r.json', 'ours', tasks)
    (axis,) = draw(path).axes
    assert axis.name == 'polar'
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == [
        'Food101\n46.5',
        'CIFAR10\n73.5',
        'CIFAR100\n37.3',
        'SUN397\n47.5',
        'Cars\n25.0',
    ]
    lines = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
    assert list(lines) == [*METHODS, 'ours']
    expected = [25 / 46.5, 25 / 73.5, 25 / 37.3, 25 / 47.5, 1, 25 / 46.5]
    np.testing.assert_allclose(lines['ours'], expected)
    np.testing.assert_allclose(lines['PGS-0.3'], [1, 1, 1, 1, 19.9 / 25, 1])


def test_bars_of_fewer(tmp_path):
    tasks = accuracies([*GROUPS['classification'][:4], 'sugar_crepe/swap_obj'], 0.25)
    path = write_results(tmp_path / 'r.json', 'ours', tasks)
    other = write_results(tmp_path / 's.json', 'other', accuracies(['sugar_crepe/swap_att'], 0.75))
    figure = draw(path, other)
    top, bottom = figure.axes
    assert [t.get_text() for t in bottom.get_xticklabels()] == ['swap\nobj', 'swap\natt']
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in bottom.containers}
    np.testing.assert_allclose(heights['FLIP'], [60.2, 61.6])
    np.testing.assert_allclose(heights['ours'], [25, np.nan])
    np.testing.assert_allclose(heights['other'], [np.nan, 75])
    assert len(top.get_xticklabels()) == 4
    image = io.BytesIO()
    figure.savefig(image, dpi=60)
    assert np.asarray(Image.open(image).convert('RGB')).std() > 20


def test_bars_name_every_row_once_in_one_color(tmp_path):
    """Peers are in some panels only; a row has the same color in all of them."""
    tasks = accuracies(['zeroshot/imagenet1k', 'sugar_crepe/swap_obj'], 0.25)
    figure = draw(write_results(tmp_path / 'r.json', 'ours', tasks))
    panels = [
        {bars.get_label(): bars[0].get_facecolor() for bars in axis.containers}
        for axis in figure.axes
    ]
    assert [*METHODS, 'CLIPF [1]', 'GLIP [2]', 'ours'] == list(panels[0])
    assert [*METHODS, 'ours'] == list(panels[1])
    assert all(panels[0][name] == color for name, color in panels[1].items())
    assert len(set(panels[0].values())) == len(panels[0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(panels[0])


def test_bad_files_are_named(tmp_path):
    def refused(content: str, words: str):
        path = tmp_path / 'results.json'
        path.write_text(content)
        with pytest.raises(UserError, match=words) as caught:
            report([str(path)], None, None, None)
        assert str(path) in str(caught.value)
        assert '\n' not in str(caught.value)

    with pytest.raises(UserError, match=r'absent\.json \(No such file'):
        report([str(tmp_path / 'absent.json')], None, None, None)
    refused('{"name": ', r'results\.json \(Expecting value')
    refused('[]', "no 'tasks'")
    refused('{"step": 7, "loss": 1.5}', r'main\.py writes .*`python -m pgs\.evaluate --checkpoint=')
    refused('{"tasks": {}}', "no 'name'")
    refused('{"name": "x", "tasks": {}}', 'no task of the paper')
    one = '{"name": "x", "tasks": {"zeroshot/dtd": %s}}'
    refused(one % '0.5', "zeroshot/dtd has no 'metrics'")
    for share in ('16.5', '-0.1', 'NaN', 'null', 'true', '"0.5"'):
        refused(one % f'{{"metrics": {{"acc1": {share}}}}}', 'acc1 of zeroshot/dtd is .* no share')
    refused('{"name": "x", "tasks": {}, "relative_training_time": "fast"}', "is 'fast'")
    assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_outputs_that_cannot_be_written(tmp_path):
    path = write_results(tmp_path / 'r.json', 'x', accuracies(['sugar_crepe/add_att']))
    before = Path(path).read_text()
    with pytest.raises(UserError, match=r'--markdown=.* must end in \.md'):
        report([path], path, None, None)
    with pytest.raises(UserError, match=r'--figure=f\.pdf must end in \.png'):
        report([path], None, 'f.pdf', None)
    with pytest.raises(UserError, match=r'cannot write .*x\.png \(.*give another --figure'):
        report([path], None, f'{path}/x.png', None)
    assert Path(path).read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ['r.json']


def test_two_of_one_name(tmp_path):
    tasks = accuracies(['zeroshot/dtd'])
    paths = [write_results(tmp_path / f'{i}.json', 'x', tasks) for i in range(2)]
    with pytest.raises(UserError, match=r"0\.json and .*1\.json are both named 'x'"):
        report(paths, None, None, None)


def test_command_line(tmp_path):
    def run(*args: str):
        command = [*preloaded.python(), '-m', 'pgs.report', *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)

    path = write_results(tmp_path / 'r.json', 'x', accuracies(GROUPS['sugar_crepe']))
    done = run(path, f'--markdown={tmp_path}/new/a.md', f'--figure={tmp_path}/b.png')
    assert (done.returncode, done.stderr) == (0, '')
    assert 'SugarCrepe' in done.stdout
    assert '\x1b' not in done.stdout  # no terminal
    assert (tmp_path / 'b.png').read_bytes().startswith(b'\x89PNG')
    assert f'](<{tmp_path}/b.png>)' in (tmp_path / 'new' / 'a.md').read_text()
    done = run()
    assert done.returncode == 1
    assert 'usage: python -m pgs.report results.json' in done.stderr
    done = run(path, '--markdwn=x.md')
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*'markdwn'.*\n", done.stderr)
