"""pgs.compile: messages, table and suggestions; with libtpu, properties of the compiled step."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import preloaded
import pytest
from conftest import shrunk_quickstart

from configs import vitb16_clip, vitb16_flip, vitb16_pgs
from pgs.build import build
from pgs.compile import aot, suggest, topology
from pgs.compile.run import baseline_index, with_strategies
from pgs.compile.table import table
from pgs.errors import UserError
from pgs.step import make_init

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='libtpu is not installed: pip install -r requirements-tpu.txt',
)
# The least effort: it compiles in a quarter of the time, and the properties tested here stay.
FAST = {'jax_optimization_level': 'O0', 'jax_memory_fitting_level': 'O0'}
SMALL = {'batch_size': 128, 'model.image.layers': 2, 'model.text.layers': 1}  # of ViT-B/16


def small(config, **changes):
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope='module')
def reports():
    """Full width and tokens, few layers, on the smallest slice: compiled once for all tests."""
    configs = {
        'none': vitb16_clip.get_config(),
        'pgs-0.5': vitb16_pgs.get_config('0.5'),
        'pgs-0.3': vitb16_pgs.get_config('0.3'),
        'fsdp': vitb16_pgs.get_config('0.5'),
        'zero': vitb16_pgs.get_config('0.5'),
    }
    configs['fsdp'].mesh.fsdp = 4
    configs['zero'].mesh.update(data=1, zero=4)
    with aot.jax_settings(FAST):
        return {name: aot.compile_step(small(c), 'v5e:2x2') for name, c in configs.items()}


def test_an_unknown_topology_lists_the_known():
    with pytest.raises(UserError, match=r'v5e:8x9 is unknown: did you mean v5e:8x8\? .*v6e: 2x2'):
        topology.chip_of('v5e:8x9')
    with pytest.raises(UserError, match='v4: 2x2x1'):
        topology.chip_of('h100')


def test_without_libtpu_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install -r requirements-tpu\.txt'):
        topology.devices_of('v5e:2x2')


def test_every_topology_has_a_chip():
    assert topology.TOPOLOGIES.keys() == topology.CHIPS.keys()
    for kind, shapes in topology.TOPOLOGIES.items():
        assert topology.chip_of(f'{kind}:{shapes[-1]}') is topology.CHIPS[kind]


BIG = {
    'needed_bytes': 60 * aot.GIB,
    'capacity_bytes': 16 * aot.GIB,
    'state_bytes': 2 * aot.GIB,
    'batch_per_device': 512,
    'microbatches': 1,
    'remat': 'dots',
    'mesh': {'data': 64, 'fsdp': 1},
    'devices': 64,
    'topology': 'v5e:8x8',
    'strategy': 'pgs',
}


def test_too_big_says_by_how_much_and_what_helps():
    line = suggest.too_big_message(BIG)
    assert 'needs 60.00 GiB a device, 44.00 GiB more than the 16.00 GiB of v5e' in line
    assert '--config.microbatches=8' in line  # 58 / 8 is below 0.9 * 14, 58 / 4 is not
    assert "--config.model.remat='full'" in line
    assert 'fsdp' in line
    assert '--suggest' in line


@pytest.mark.parametrize(
    ('message', 'expected'),
    [
        ('RESOURCE_EXHAUSTED: Used 63.25G of 15.75G hbm. Exceeded', (63.25, 15.75)),
        (
            'HLO temporaries (16.5G) exceeds available HBM (15.75G).',
            (18.5, 15.75),
        ),  # and 2 of state
        ('temporaries (47.5G) exceed available HBM (15.75G)', (49.5, 15.75)),
    ],
)
def test_refusals_of_the_compiler_are_understood(message, expected):
    needed, there = aot.memory_needed(message, 2 * aot.GIB)
    assert (needed / aot.GIB, there / aot.GIB) == expected
    assert aot.memory_needed('INTERNAL: something else', 0) is None


def test_what_is_suggested_is_tried_in_order(monkeypatch):
    tried = []

    def compile_step(config, topology):
        tried.append((config.model.remat, config.microbatches))
        if config.microbatches < 16:
            raise aot.TooBig(BIG)
        return {'strategy': 'pgs'}

    monkeypatch.setattr(suggest, 'compile_step', compile_step)
    report = suggest.fit(vitb16_pgs.get_config(), 'v5e:8x8', lambda words: None)
    assert tried == [('dots', 1), ('dots', 8), ('dots', 16)]
    assert report['suggestion'] == '--config.microbatches=16'
    monkeypatch.setattr(suggest, 'compile_step', lambda *_: (_ for _ in ()).throw(aot.TooBig(BIG)))
    with pytest.raises(aot.TooBig):
        suggest.fit(vitb16_pgs.get_config(), 'v5e:8x8', lambda words: None)


def test_others_are_compared_with_the_unmasked_one():
    configs = with_strategies(vitb16_pgs.get_config(), ['random', 'none', 'pgs'])
    assert [config.masking.strategy for config in configs] == ['random', 'none', 'pgs']
    assert baseline_index(configs) == 1
    assert baseline_index(configs[::2]) == 0
    unmasked = vitb16_flip.get_config()
    unmasked.masking.mask_ratio = 0.0
    assert baseline_index([configs[2], unmasked]) == 1
    assert with_strategies(unmasked, []) == [unmasked]


def test_labels_give_the_masked_fraction():
    configs = {
        'none': vitb16_clip.get_config(),
        'random 0.5': vitb16_flip.get_config(),
        'pgs 0.3-0.5': vitb16_pgs.get_config(),
        'pgs 0.5': vitb16_pgs.get_config('0.5'),
    }
    for label, config in configs.items():
        mesh = jax.make_mesh((4,), ('data',), devices=jax.devices()[:4])
        assert aot.describe(config, 'v5e:2x2', mesh)['strategy'] == label


@needs_libtpu
@pytest.mark.slow
def test_costs_of_the_compiled_steps(reports):
    """Few layers of twelve, so the ratios differ from those of the complete model."""
    none, half, content = (reports[n] for n in ('none', 'pgs-0.5', 'pgs-0.3'))
    assert half['flops'] < content['flops'] < none['flops']
    assert 0 < half['selection_traffic_bytes'] < 0.1 * half['memory_traffic_bytes']
    for r in reports.values():
        assert r['devices'] == 4
        assert r['estimated_seconds'] >= r['roofline_seconds'] > 0
        held = r['argument_bytes'] + r['temporary_bytes']
        assert r['state_bytes'] < held < r['capacity_bytes']
    text = table([none, half, content])
    for words in ('HBM: temporaries', 'R.T.T. over none', 'all-reduce over data', 'days'):
        assert words in text


@needs_libtpu
@pytest.mark.slow
def test_data_parallel_exchanges_one_gradient_and_the_embeddings(reports):
    report = reports['pgs-0.5']
    found = {c['kind']: c['bytes'] for c in report['collectives']}
    assert set(found) <= {'all-reduce', 'all-gather'}
    parameters = report['state_bytes'] / 3  # with two moments of the same size
    embeddings = 2 * 128 * 512 * 4
    assert sum(found.values()) < parameters + embeddings + 2**20


@needs_libtpu
@pytest.mark.slow
def test_fsdp_splits_the_state(reports):
    whole, split = reports['pgs-0.5'], reports['fsdp']
    assert split['state_bytes'] < 0.27 * whole['state_bytes']
    assert split['argument_bytes'] < 0.4 * whole['argument_bytes']
    assert {c['axis'] for c in split['collectives']} >= {'fsdp'} or split['mesh']['data'] == 1


@needs_libtpu
@pytest.mark.slow
def test_zero_splits_the_state_and_no_product(reports):
    whole, split = reports['pgs-0.5'], reports['zero']
    assert split['state_bytes'] < 0.27 * whole['state_bytes']
    assert split['part_seconds']['loss and optimizer'] < (
        0.6 * whole['part_seconds']['loss and optimizer']
    )
    # A product that is split passes its parts on from neighbour to neighbour.
    kinds = {c['kind'] for c in split['collectives']}
    assert 'reduce-scatter' in kinds
    assert 'collective-permute' not in kinds
    assert split['wire_seconds'] <= whole['wire_seconds']


@needs_libtpu
@pytest.mark.slow
def test_the_command_and_its_json(monkeypatch):
    for key, level in FAST.items():
        monkeypatch.setenv(key.upper(), level)
    flags = [f'--config.{k}={v}' for k, v in SMALL.items()]
    command = [*preloaded.python(), '-m', 'pgs.compile', '--topology=v5e:2x2', '--json']
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report['fits']
    assert report['strategy'] == 'pgs 0.3-0.5'
    # 4096 pairs a chip, without remat: refused by the compiler, with figures and advice.
    flags = ['--config.batch_size=16384', '--config.model.remat=none']
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r'needs [\d.]+ GiB a device, [\d.]+ GiB more than', done.stderr)
    assert json.loads(done.stdout)['fits'] is False


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'batch_size': 6}, 'batch_size=6 does not split over 4'),
        ({'mesh.fsdp': 3}, 'fsdp=3 does not fit 4 devices'),
        ({'microbatches': 3}, 'microbatches=3 does not divide'),
    ],
)
@needs_libtpu
def test_a_config_that_does_not_fit_the_slice_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        aot.compile_step(small(vitb16_pgs.get_config(), **change), 'v5e:2x2')


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ('flag', 'words'),
    [('--topology=v5e:7x7', 'is unknown'), ('--config=configs/none.py', 'no config file')],
)
def test_bad_flags_get_one_line(flag, words):
    command = [*preloaded.python(), '-m', 'pgs.compile', flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ')
    assert words in line


@pytest.mark.parametrize('strategy', ['none', 'random', 'attentive', 'pgs'])
def test_the_step_lowers_for_cuda_and_tpu(strategy):
    """jax.export checks every operation against the platform's rules; nothing is compiled."""
    config = shrunk_quickstart(total_steps=6)
    config.masking.strategy = strategy
    config.masking.budget_group = 4
    config.microbatches = 2
    for platform, name in (('cuda', 'gpu'), ('tpu', 'tpu')):
        job = build(config, total_steps=6, platform=name)
        state = jax.eval_shape(make_init(job.model, job.optimizer, 0, job.strategy))
        batch = {
            'images': jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.uint8),
            'tokens': jax.ShapeDtypeStruct((16, 24), jnp.int32),
        }
        exported = jax.export.export(
            jax.jit(job.train_step),
            platforms=[platform],
            # Export refuses calls that may change between versions; nothing is kept here.
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call('LayoutConstraint')],
        )(state, batch)
        assert exported.platforms == (platform,)
        assert 'bf16' in exported.mlir_module()
