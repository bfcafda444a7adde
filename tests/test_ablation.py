"""configs/ablation.py: each argument changes what its row says and nothing else."""

import re

import pytest

from configs import ablation, vitb16_pgs
from pgs.build import build, check_config
from pgs.errors import UserError


def flat(config, prefix=''):
    items = {}
    for key, value in config.items():
        nested = flat(value, f'{prefix}{key}.') if hasattr(value, 'items') else None
        items.update(nested if nested is not None else {f'{prefix}{key}': value})
    return items


EXPECTED = {
    'full': {},
    'no_edges': {'masking.use_edges': False},
    'no_transport': {'masking.use_transport': False},
    'no_edges_no_transport': {'masking.use_edges': False, 'masking.use_transport': False},
    'candidates_0.01': {'masking.candidate_ratio': 0.01},
    'candidates_0.05': {},
    'candidates_0.1': {'masking.candidate_ratio': 0.1},
    'candidates_0.3': {'masking.candidate_ratio': 0.3},
    'candidates_0.5': {'masking.candidate_ratio': 0.5},
    'masked_0.3_0.5': {},
    'masked_0.5': {'masking.min_ratio': 0.5},
    'sobel': {},
    'canny': {'masking.edge_detector': 'canny'},
    'vit_b16': {},
    'vit_b32': {'model.image.patch_size': 32},
    'vit_s16': {
        'model.embed_dim': 384,
        'model.image.width': 384,
        'model.image.heads': 6,
        'model.text.width': 384,
        'model.text.heads': 6,
    },
    'progress_0': {'masking.fixed_progress': 0.0},
    'progress_1': {'masking.fixed_progress': 1.0},
}


def test_each_row_changes_what_it_says():
    assert ablation.ROWS.keys() == EXPECTED.keys()
    paper = flat(vitb16_pgs.get_config())
    for row, changes in EXPECTED.items():
        config = flat(ablation.get_config(row))
        assert {k: v for k, v in config.items() if paper[k] != v} == changes, row
        assert config.keys() == paper.keys()
    assert ablation.get_config().to_dict() == vitb16_pgs.get_config().to_dict()


@pytest.mark.parametrize('row', ['candidates_0.01', 'canny', 'vit_s16', 'vit_b32', 'progress_1'])
def test_what_is_new_in_a_row_passes_all_checks(row):
    check_config(ablation.get_config(row), devices=1, platform='cpu')


def test_small_and_coarse_towers():
    def image_of(row):
        return build(ablation.get_config(row), total_steps=1, platform='cpu').model.image

    assert image_of('vit_b32').num_patches == 49
    assert image_of('vit_s16').num_patches == 196
    assert image_of('vit_s16').transformer.width == 384


def test_unknown_rows_are_refused_with_the_list():
    with pytest.raises(UserError, match=r'ablation\.py:no_edge is not a row: take one of full, '):
        ablation.get_config('no_edge')


def test_the_docstring_has_every_row():
    text = ablation.__doc__
    for row in EXPECTED:
        if not row.startswith('candidates_'):
            assert re.search(rf'^  {re.escape(row)} ', text, re.M), row
    assert all(words in text for words in ('Command:', 'Time:', 'Result:', 'candidates_0.01'))
