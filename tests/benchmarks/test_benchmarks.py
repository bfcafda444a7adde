"""Benchmarks: tables and plots of given numbers, variants, and measurements of a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import preloaded
import pytest
from conftest import shrunk_quickstart
from programs import load_benchmark as load

from benchmarks import common, open_clip_step
from benchmarks.plots import bars_figure
from pgs.compile.aot import masks_nothing
from pgs.errors import UserError

ROOT = Path(__file__).parents[2]
# Those with a command: the others are parts of them.
NAMES = sorted(
    path.stem for path in ROOT.glob('benchmarks/*.py') if '\n    cli.run(' in path.read_text()
)


def test_table_aligns_its_columns():
    text = common.table(['name', 'n'], [['a', '1'], ['longer', '10.5']])
    assert text.splitlines() == ['name       n', 'a          1', 'longer  10.5']


def test_bars_and_whiskers_show_the_figures():
    ours = {'a': {'median': 2.0, 'min': 1.5, 'max': 3.0}, 'b': {'median': 1.0, 'min': 1, 'max': 1}}
    theirs = {'a': common.spread([4.0]), 'b': common.spread([1234.0])}
    figure = bars_figure({'seconds': {'ours': ours, 'theirs': theirs}, 'ratio': {'': ours}})
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [2.0, 1.0, 4.0, 1234.0]
    assert [t.get_text() for t in left.texts] == ['2.00', '1.00', '4.00', '1234']
    assert [t.get_text() for t in left.get_legend().get_texts()] == ['ours', 'theirs']
    assert right.get_legend() is None
    whisker = right.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(whisker[:, 1], [1.5, 3.0])


def test_the_plot_is_written_beside_the_json(tmp_path):
    path = tmp_path / 'new' / 'figures.json'
    common.write(str(path), {'a': 1}, {'seconds': {'': {'a': common.spread([1.0])}}})
    assert json.loads(path.read_text()) == {'a': 1}
    assert path.with_suffix('.png').read_bytes()[:4] == b'\x89PNG'


def test_step_summary_and_table():
    step = load('step')
    plain = step.Measurement(2.5, seconds=[4.0, 4.0, 5.0], selections=[])
    masked = step.Measurement(1.5, seconds=[2.0, 2.0, 2.0], selections=[0.02, 0.01, 0.04])
    rows = {
        name: step.summary(run, plain.seconds, batch_size=8, flops=1e12, peak=1e12)
        for name, run in (('none', plain), ('pgs-0.5', masked))
    }
    assert rows['pgs-0.5']['relative_training_time'] == 0.5
    assert rows['pgs-0.5']['selection_share'] == {'median': 0.01, 'min': 0.005, 'max': 0.02}
    header, first, second = (line.split() for line in step.table(rows).splitlines())
    assert header == [
        'variant',
        's/step',
        'min..max',
        'pairs/s',
        'R.T.T.',
        'MFU',
        'selection',
        'GiB',
    ]
    assert first == ['none', '4.00', '4.00..5.00', '2.00', '1.000', '25.0%', '-', '2.50']
    assert second == ['pgs-0.5', '2.00', '2.00..2.00', '4.00', '0.500', '50.0%', '1.00%', '1.50']
    assert len(bars_figure(step.panels(rows)).axes) == 3
    alone = {'none': step.summary(plain, None, batch_size=8, flops=1e12, peak=1e12)}
    assert step.table(alone).splitlines()[1].split()[4] == '-'
    assert len(bars_figure(step.panels(alone)).axes) == 2


def test_versus_open_clip_summary_and_table():
    versus = load('versus_open_clip')
    rows = {'none': versus.summary([2.0, 4.0, 2.0], [3.0, 5.0, 2.0], 197, 197, batch_size=8)}
    assert rows['none']['ratio'] == {'median': 1.25, 'min': 1.0, 'max': 1.5}
    assert rows['none']['open_clip']['pairs_per_second'] == 8 / 3
    cells = versus.table(rows).splitlines()[1].split()
    assert cells == [
        'none',
        '197',
        '/',
        '197',
        '2.00',
        '3.00',
        '4.00',
        '2.67',
        '1.25',
        '(1.00..1.50)',
    ]
    assert set(versus.panels(rows)['seconds a step']) == {'ours', 'open_clip'}
    assert set(versus.ROWS) <= set(common.VARIANTS)


@pytest.mark.parametrize('name', ['torch', 'open_clip'])
def test_without_open_clip_one_line_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as error:
        open_clip_step.libraries()
    message = str(error.value)
    assert '\n' not in message
    assert 'pip install -r requirements-bench.txt' in message


def test_variants_are_the_papers_configs():
    masking = {name: common.variant_config(name, 8).masking for name in common.VARIANTS}
    ratios = {name: (m.min_ratio, m.max_ratio, m.long_share) for name, m in masking.items()}
    assert ratios['pgs-0.5'][:2] == (0.5, 0.5)
    assert ratios['pgs-0.3'] == (0.3, 0.5, 0.5)
    assert ratios['pgs-0.3-padded'] == (0.3, 0.5, 1.0)
    assert masking['random-0.5'].mask_ratio == 0.5
    assert [n for n in common.VARIANTS if masks_nothing(common.variant_config(n, 8))] == ['none']
    assert common.variant_config('none', 8).batch_size == 8
    with pytest.raises(
        UserError, match=r'--variants=pgs is unknown: take some of none, random-0\.5'
    ):
        common.variant_config('pgs', 8)


@pytest.mark.parametrize(
    ('name', 'tokens'),
    [
        ('none', 197),
        ('random-0.5', 99),
        ('pgs-0.5', 99),
        ('pgs-0.3-padded', 138),
        ('pgs-0.3', 118.5),
    ],
)
def test_tokens_of_the_variants(name, tokens):
    assert common.image_tokens(common.variant_config(name, 16)) == tokens


def test_variants_share_a_state_and_are_measured(tiny_config):
    state = None
    for strategy in ('none', 'pgs'):
        tiny_config.masking.strategy = strategy
        compiled, state, batch = common.compiled_step(tiny_config, state)
        state, _ = compiled(state, batch)
        held = sum(x.nbytes for x in jax.tree.leaves(state)) / 2**30
        assert common.peak_memory(compiled) > held
    assert int(state.step) == 2
    assert common.selection_timer(tiny_config, batch)() > 0.0


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_every_benchmark_starts(name):
    command = [*preloaded.python(), '-m', f'benchmarks.{name}', '--helpfull']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert '--out' in done.stdout, done.stderr
    assert done.stderr == ''


def test_masked_inference_of_a_tiny_model(monkeypatch):
    benchmark = load('masked_inference')

    def tiny(masked: bool):
        config = shrunk_quickstart(total_steps=1)
        config.masking.update(strategy='random', mask_ratio=0.5 if masked else 0.0)
        return config

    names = {'none': lambda: tiny(masked=False), 'half': lambda: tiny(masked=True)}
    monkeypatch.setattr(common, 'VARIANTS', names)
    models = benchmark.embedders(['none', 'half'], batch_size=1)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    whole, masked = (models[name].images(image) for name in names)
    assert np.abs(whole - masked).max() > 1e-3
    rates = benchmark.measure(models, count=2, rounds=2)
    assert {name: len(values) for name, values in rates.items()} == {'none': 2, 'half': 2}
    row = benchmark.rows({'a': [2.0, 4.0, 3.0]}, {'a': [1.0, 1.5, 0.5]})
    assert row == [['a', '3.00 (2.00 to 4.00)', '1.00 (0.50 to 1.50)']]
