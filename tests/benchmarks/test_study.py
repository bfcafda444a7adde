"""The study's statistics against theory and by hand, its variants, its plan, and one tiny run."""

import numpy as np
import pytest
from conftest import shrunk_quickstart
from programs import load_benchmark as load

from configs.study import VARIANTS
from pgs.build import check_config
from pgs.errors import UserError

CALIBRATED = {'cluster_target': 0.5, 'max_ratio': 0.7}
study, plans = load('study'), load('study_plan')
runs, report, results = load('study_runs'), load('study_report'), load('study_results')


def test_an_interval_is_that_of_theory():
    """Of independent hits: the mean plus or minus 1.96 standard errors."""
    values = (np.random.default_rng(0).random((5, 400)) < 0.3).astype(float)
    error = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / values.size)
    found = report.interval(values)
    assert found.mean == values.mean()
    # Drawing whole rows and whole columns counts the noise of a single value about three times.
    assert error < (found.high - found.low) / 2 < 2 * error


def test_what_differs_between_seeds_or_pairs_widens_an_interval():
    rng = np.random.default_rng(0)
    same = np.full((5, 200), 0.5)
    seeds = same + rng.normal(size=(5, 1))
    pairs = same + rng.normal(size=(1, 200))
    widths = [i.high - i.low for i in map(report.interval, (same, seeds, pairs))]
    assert widths[0] == 0.0
    assert widths[1] == pytest.approx(2 * 1.96 * seeds.mean(axis=1).std() / np.sqrt(5), rel=0.25)
    assert widths[2] == pytest.approx(2 * 1.96 * pairs.mean(axis=0).std() / np.sqrt(200), rel=0.1)


def test_differences_are_of_paired_data():
    """What two variants have in common is in no difference."""
    common = np.random.default_rng(0).random((5, 100))
    rows = report.rows_of({'steps': {'none': common, 'random': common - 0.25, 'pgs': common + 0.1}})
    of_pgs = rows[2]
    assert of_pgs['minus none'] == pytest.approx((0.1, 0.1, 0.1))
    assert of_pgs['minus random'] == pytest.approx((0.35, 0.35, 0.35))
    assert of_pgs['score'].high - of_pgs['score'].low > 0.05
    assert 'minus none' not in rows[0]


def test_hits_by_hand():
    ranks = {'text': np.array([0, 4, 5]), 'image': np.array([9, 0, 7])}
    assert report.hits(ranks).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize('name', VARIANTS)
def test_each_variant_is_a_valid_config(name):
    config = runs.variant_config(name, data='openmoji', batch_size=16, steps=80, seed=3)
    check_config(config, devices=1, platform='cpu')
    assert (config.seed, config.total_steps) == (3, 80)
    assert (config.optimizer.tail_rate > 0.0) == (config.masking.until < 1.0)


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match=r'study\.py:pgs-0\.7 is not a variant: .* pgs-0\.3,'):
        runs.variant_config('pgs-0.7', data='openmoji', batch_size=16, steps=80, seed=3)


def test_masks_save_flops_and_a_tail_of_whole_images_costs_some():
    flops = {n: runs.flops_a_step(n, 'openmoji', 16) for n in ('none', 'pgs', 'pgs-tail')}
    assert flops['pgs'] < 0.7 * flops['none']
    tail = 0.95 * flops['pgs'] + 0.05 * flops['none']
    assert flops['pgs-tail'] == pytest.approx(tail)


def test_a_run_ranks_the_held_out_pairs(tmp_path):
    config = shrunk_quickstart(total_steps=2)
    config.masking.strategy = 'pgs'
    [(ranks, figures)] = runs.train_and_rank([config], tmp_path)
    assert set(ranks) == {'text', 'image', 'masked text', 'masked image'}
    assert {len(values) for values in ranks.values()} == {424}
    assert (ranks['text'] != ranks['masked text']).any()
    assert 0.3 < figures['masked'] < 0.6
    assert 0.5 < figures['retention'] <= 1.0
    assert 0.0 <= figures['starved'] < 0.5


@pytest.mark.parametrize('options', [{'until': 0.5}, {'strategy': 'cluster', **CALIBRATED}])
def test_seeds_that_are_trained_together_get_what_each_gets_alone(tmp_path, options):
    configs = []
    for seed in (3, 4):
        config = shrunk_quickstart(total_steps=2)
        config.seed = seed
        config.masking.update({'strategy': 'pgs'} | options)
        configs.append(config)
    together = runs.train_and_rank(configs, tmp_path)
    alone = [found for config in configs for found in runs.train_and_rank([config], tmp_path)]
    assert together[0][1]['loss'] != together[1][1]['loss']
    for (ranks, figures), (expected_ranks, expected) in zip(together, alone, strict=True):
        assert figures['loss'] == pytest.approx(expected['loss'], abs=1e-5)
        assert figures['masked'] == pytest.approx(expected['masked'], abs=1e-3)
        # A feature that moves by a rounding error changes a rank only where two are nearly equal.
        assert np.mean(ranks['text'] == expected_ranks['text']) > 0.9


FIXED = {'version': plans.VERSION, 'data': 'openmoji', 'batch_size': 8, 'steps_of_none': 4}


def small_plan() -> dict:
    variants = {
        name: {
            'settings': VARIANTS[name],
            'flops_of_step': flops,
            'seconds_of_step': seconds,
            'steps': plans.steps_at_points(4, flops / 4e9, seconds),
            'machine': {},
        }
        for name, flops, seconds in (('none', 4e9, 1.0), ('random', 2e9, 0.6), ('pgs', 2.2e9, 0.7))
    }
    return FIXED | {'variants': variants}


def write_runs(folder, plan, seeds, views=('',)):
    rng = np.random.default_rng(0)
    for name, decided in plan['variants'].items():
        for steps in set(decided['steps'].values()):
            for seed in seeds:
                sides = [f'{view}{side}' for view in views for side in ('text', 'image')]
                ranks = {side: rng.integers(0, 10, 50).tolist() for side in sides}
                figures = {'loss': 1.0, 'masked': 0.5, 'retention': None, 'starved': 0.1 * seed}
                content = {'version': plans.VERSION, 'figures': figures, 'ranks': ranks}
                plans.write_json(results.run_path(folder, name, steps, seed), content)


def test_steps_at_points_by_hand():
    assert plans.steps_at_points(200, 0.5, 0.6) == {'steps': 200, 'flops': 400, 'seconds': 333}
    # Numbers that differ by up to a tenth share a run.
    assert plans.steps_at_points(200, 0.5, 0.53) == {'steps': 200, 'flops': 400, 'seconds': 400}
    assert plans.steps_at_points(200, 1.0, 1.0) == {'steps': 200, 'flops': 200, 'seconds': 200}


def test_a_report_of_given_runs(tmp_path):
    plan = small_plan()
    (tmp_path / 'runs').mkdir()
    write_runs(tmp_path, plan, (0, 1))
    text = results.report(tmp_path, plan, [0, 1])
    assert text.count('| pgs | ') == 1 + 3
    assert 'batch 8, 4 steps without a mask, 2 seeds, 50 held-out pairs' in text
    assert '| pgs | 0.55 | 0.70 | 50% |  | 5.0% |' in text
    assert '| pgs | 7 | ' in text.split('## Equal FLOPs')[1]
    assert 'Choice' not in text  # there is one of CHOICES only
    assert '## Equal FLOPs, images masked' not in text
    lines = (tmp_path / 'report' / 'study.csv').read_text().splitlines()
    assert len(lines) == 1 + 3 * 3 * 2
    assert (tmp_path / 'report' / 'study.png').read_bytes()[:4] == b'\x89PNG'


def test_choices_are_confirmed_on_other_seeds_and_pairs():
    """What is better on the first seeds and even pairs alone is so in no other column."""
    pgs = np.zeros((4, 6))
    lucky = pgs.copy()
    lucky[:2, ::2] = 1.0
    text = report.choice_table({'pgs': pgs, 'edges': lucky, 'background': pgs + 0.25})
    nothing, quarter = '+0.0 (+0.0 to +0.0)', '+25.0 (+25.0 to +25.0)'
    assert f'| edges | +100.0 (+100.0 to +100.0) | {nothing} | +25.0 (' in text
    assert f'| background | {quarter} | {quarter} | {quarter} |' in text
    assert 'the first 2 seeds and every other pair' in text


def test_other_views_have_tables_of_their_own(tmp_path):
    plan = small_plan()
    (tmp_path / 'runs').mkdir()
    write_runs(tmp_path, plan, (0, 1), views=('', 'masked '))
    for path in (tmp_path / 'runs').glob('none-*'):  # its images are not masked
        content = plans.read_json(path)
        content['ranks'] = {k: v for k, v in content['ranks'].items() if 'masked' not in k}
        plans.write_json(path, content)
    masked = results.report(tmp_path, plan, [0, 1]).split('images masked as in training')[1]
    assert ('| none |' in masked, '| pgs |' in masked) == (False, True)
    assert 'masked_text_recall@5' in (tmp_path / 'report' / 'study.csv').read_text()


def open_small_plan(folder, names=('none', 'random', 'pgs'), **changes):
    given = {'data': 'openmoji', 'batch_size': 8, 'steps': 4} | changes
    return plans.open_plan(folder / 'plan.json', names, *given.values())


def test_a_plan_of_other_flags_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / 'plan.json'
    plans.write_json(path, small_plan())
    assert open_small_plan(tmp_path) == small_plan()
    assert list(open_small_plan(tmp_path, ('none', 'pgs'))['variants']) == ['none', 'pgs']
    with pytest.raises(UserError, match='it differs in data, batch_size: give the same flags'):
        open_small_plan(tmp_path, data='openmoji_scenes', batch_size=16)
    other = small_plan()
    other['variants']['pgs']['settings'] = {'masking.strategy': 'random'}
    plans.write_json(path, other)
    with pytest.raises(UserError, match='it differs in pgs: give the same flags'):
        open_small_plan(tmp_path)
    path.write_text('{}')
    with pytest.raises(UserError, match='is no plan of a study'):
        open_small_plan(tmp_path)


def test_a_variant_that_a_plan_lacks_is_added(tmp_path, monkeypatch):
    def planned(names, *_):
        return {name: {'settings': VARIANTS[name], 'new': True} for name in names}

    monkeypatch.setattr(plans, 'planned', planned)
    plans.write_json(tmp_path / 'plan.json', small_plan())
    plan = open_small_plan(tmp_path, ('none', 'pgs', 'gaussian'))
    assert [name for name, v in plan['variants'].items() if 'new' in v] == ['gaussian']
    kept = plans.read_json(tmp_path / 'plan.json')['variants']
    assert list(kept) == ['none', 'random', 'pgs', 'gaussian']
    assert open_small_plan(tmp_path, ('none', 'gaussian'))['variants']['gaussian']['new']


def test_runs_are_grouped_by_variant_only_if_seeds_train_together():
    keys = [(name, 4, seed) for seed in (0, 1) for name in ('none', 'pgs')]
    assert study.grouped(keys, together=False) == [[key] for key in keys]
    assert study.grouped(keys, together=True) == [keys[::2], keys[1::2]]


@pytest.mark.parametrize('content', ['', '{}', '{"version": 1}', '[1]'])
def test_a_damaged_run_is_named(tmp_path, content):
    path = tmp_path / 'pgs-4-0.json'
    path.write_text(content)
    with pytest.raises(UserError, match=r'pgs-4-0\.json is no run of this study .*: delete it'):
        results.read_run(path)
