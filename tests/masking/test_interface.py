"""The interface of strategies: one file and one config add one, and mistakes are named."""

import ast
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import preloaded
import pytest

from configs import base
from pgs.errors import UserError
from pgs.masking import PatchSelection, configured, known_strategies
from pgs.masking.strategies import check_output, label, options_of, selection_shape

ROOT = Path(__file__).parents[2]
PROGRAM = ('main.py', 'configs', 'pgs', 'input_pipeline')


def default_masking(**changes):
    return base.get_config().masking.to_dict() | changes


def test_every_strategy_is_found():
    assert {'none', 'random', 'gaussian', 'cluster', 'attentive', 'pgs'} <= set(known_strategies())
    assert all(name == function.__name__ for name, function in known_strategies().items())


def test_an_option_that_the_config_does_not_name_takes_the_default_of_the_signature():
    masking = default_masking()
    del masking['epsilon']
    assert 'epsilon' not in configured(masking, 16).keywords
    assert options_of(configured(masking, 16).func)['epsilon'] == 0.1
    assert configured({'strategy': 'random'}, 16).keywords == {'patch_size': 16}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'min_ration': 0.3}, ['config.masking.min_ration', 'config.masking.min_ratio?']),
        (
            {'zzz': 1},
            ['config.masking.zzz', 'known are anchor_ratio, attention_scale, border_weight,'],
        ),
        ({'min_ratio': '0.3'}, ["config.masking.min_ratio='0.3'", 'float']),
        ({'min_ratio': True}, ['config.masking.min_ratio=True', 'float']),
        ({'min_ratio': float('nan')}, ['config.masking.min_ratio=nan', 'finite']),
        ({'edge_weight': float('inf')}, ['config.masking.edge_weight=inf', 'finite']),
        ({'use_edges': 1}, ['config.masking.use_edges=1', 'bool']),
        ({'budget_group': 1.5}, ['config.masking.budget_group=1.5', 'int']),
        ({'epsilon': None}, ['config.masking.epsilon=None', 'float']),
        ({'strategy': 'centre'}, ["'centre'", 'pgs/masking/centre.py']),
    ],
)
def test_mistakes_in_the_config_are_named(changes, words):
    with pytest.raises(UserError) as error:
        configured(default_masking(**changes), 16)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_option_without_a_default_is_named(monkeypatch):
    def bare(rng, images, patch_embeddings, progress, *, patch_size, strength: float):
        raise AssertionError('must not be called')

    monkeypatch.setattr('pgs.masking.strategies.known_strategies', lambda: {'bare': bare})
    with pytest.raises(UserError, match=r"strategy 'bare': its option strength needs a default"):
        configured({'strategy': 'bare', 'strength': 0.5}, 8)


def test_whole_numbers_are_fractions_too():
    assert configured(default_masking(min_ratio=0), 16).keywords['min_ratio'] == 0


def returning(make):
    """A configured strategy that returns make(batch, L)."""

    def strange(rng, images, patch_embeddings, progress, *, patch_size):
        return make(*patch_embeddings.shape[:2])

    return functools.partial(strange, patch_size=8)


def positions(batch, values, dtype=jnp.int32):
    return jnp.broadcast_to(jnp.array(values, dtype), (batch, len(values)))


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda b, n: positions(b, [0, 1]), 'not a PatchSelection'),
        (lambda b, n: PatchSelection(positions(b, [0.0, 1.0], jnp.float32)), 'int32'),
        (lambda b, n: PatchSelection(jnp.arange(n, dtype=jnp.int32)), r'\(2, K\)'),
        (lambda b, n: PatchSelection(positions(1, [0, 1])), r'\(2, K\)'),
        (lambda b, n: PatchSelection(jnp.zeros((b, 0), jnp.int32)), 'keeps 0 of 16 patches'),
        (lambda b, n: PatchSelection(positions(b, [0, 16])), r'from 0 to 16: .* \[0, 16\)'),
        (lambda b, n: PatchSelection(positions(b, [-1, 3])), 'from -1 to 3'),
        (lambda b, n: PatchSelection(positions(b, [3, 1])), 'ascending'),
        (lambda b, n: PatchSelection(positions(b, [1, 1])), 'distinct'),
        (
            lambda b, n: PatchSelection(positions(b, [0, 1]), jnp.ones((b, 3), bool)),
            'valid of bool',
        ),
        (lambda b, n: PatchSelection(positions(b, [0, 1]), jnp.ones((b, 2))), 'valid of float32'),
        (lambda b, n: PatchSelection(positions(b, [0, 1]), jnp.zeros((b, 2), bool)), 'without a'),
    ],
)
def test_wrong_outputs_are_refused_with_the_name(make, words):
    with pytest.raises(
        UserError, match=rf"strategy 'strange' \(pgs/masking/strange.py\) .*{words}"
    ):
        check_output('strange', returning(make), 32, 8)


def test_right_outputs_pass():
    check_output('strange', returning(lambda b, n: PatchSelection(positions(b, [0, n - 1]))), 32, 8)
    for name in known_strategies():
        check_output(name, configured(default_masking(strategy=name), 8), 32, 8)


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'strategy': 'none'}, 'none'),
        ({'strategy': 'random'}, 'random 0.5'),
        ({'strategy': 'gaussian'}, 'gaussian 0.5'),
        ({'strategy': 'cluster'}, 'cluster 0.3-0.99'),
        ({'strategy': 'attentive'}, 'attentive 0.49'),
        ({}, 'pgs 0.3-0.5'),
        ({'long_share': 1.0}, 'pgs 0.3-0.5'),
        ({'min_ratio': 0.5}, 'pgs 0.5'),
    ],
)
def test_label(changes, expected):
    masking = default_masking(**changes)
    shape = selection_shape(configured(masking, 16), 224, 16, batch=32)
    assert label(masking['strategy'], shape, 196) == expected


def test_no_program_asks_for_a_strategy_by_name():
    """A new strategy must not have to be named anywhere else ('none' is also a remat policy)."""
    names = set(known_strategies()) - {'none'}
    for folder in ('pgs', 'benchmarks'):  # input_pipeline has text masks with names of their own
        for path in sorted((ROOT / folder).rglob('*.py')):
            if path.parent.name == 'masking' and path.stem in names:
                continue
            tree = ast.parse(path.read_text())
            constants = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            assert not {c for c in constants if isinstance(c, str)} & names, path


def documented_files() -> dict[str, str]:
    """The two Python files that docs/masking.md tells a reader to write: path -> content."""
    text = (ROOT / 'docs' / 'masking.md').read_text()
    blocks = re.findall(r'`((?:pgs|configs)/[\w/]+\.py)`[^`]*:\n\n```python\n(.*?)```', text, re.S)
    return dict(blocks)


@pytest.mark.slow
def test_the_documented_strategy_trains_and_another_config_goes_on(tmp_path):
    """In a copy of the program, so that no other test sees the new files."""
    for name in PROGRAM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    files = documented_files()
    assert set(files) == {'pgs/masking/centre.py', 'configs/centre.py'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    small = [
        '--config.data.name=openmoji',
        '--config.batch_size=16',
        '--config.total_steps=3',
        '--config.log_every=1',
        '--config.model.image.layers=1',
        '--config.model.text.layers=1',
        '--config.model.image.width=32',
        '--config.model.text.width=32',
    ]
    for name, masked in (('centre', 0.4), ('quickstart', 0.45)):
        flags = [f'--config=configs/{name}.py', f'--workdir={tmp_path / "runs" / name}']
        done = subprocess.run(
            [*preloaded.python(), 'main.py', *flags, *small],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert 'Traceback' not in done.stderr  # progress bars are shown on a slow machine
        results = json.loads((tmp_path / 'runs' / name / 'results.json').read_text())
        assert results['mask_ratio_mean'] == pytest.approx(masked, abs=0.06)
        assert (tmp_path / 'runs' / name / 'figures' / 'masks.png').is_file()
        assert ('Object retention' in done.stdout) == (masked > 0)
        if name == 'centre':  # its own ratio, for it has no option that is known to set one half
            assert results['object_retention_masked'] == pytest.approx(26 / 64, abs=1e-6)
            assert np.isfinite(results['object_retention'])
