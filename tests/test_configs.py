"""The configs: the paper's recipe to the digit, and each of them runs."""

import importlib

import pytest

from pgs.build import check_config
from pgs.errors import UserError
from pgs.train import train

VITB16 = [
    ('vitb16_pgs', ()),
    ('vitb16_pgs', ('0.5',)),
    ('vitb16_clip', ()),
    ('vitb16_flip', ()),
]


def load(name, args=()):
    return importlib.import_module(f'configs.{name}').get_config(*args)


@pytest.mark.parametrize(('name', 'args'), VITB16)
def test_recipe(name, args):
    config = load(name, args)
    assert config.batch_size == 4096
    assert config.epochs == 32
    assert config.total_steps is None  # from the size of the data
    assert config.data.name == 'cc12m'
    assert config.data.crop_scale == (0.9, 1.0)
    assert config.model.embed_dim == 512
    assert config.model.image.to_dict() == {
        'image_size': 224,
        'patch_size': 16,
        'width': 768,
        'layers': 12,
        'heads': 12,
        'mlp_ratio': 4.0,
    }
    assert config.model.text.to_dict() == {
        'context_length': 77,
        'vocab_size': 49408,
        'width': 512,
        'layers': 12,
        'heads': 8,
        'mlp_ratio': 4.0,
    }
    assert config.optimizer.to_dict() == {
        'peak_learning_rate': 1e-3,
        'warmup_steps': 10_000,
        'beta1': 0.9,
        'beta2': 0.98,
        'epsilon': 1e-6,
        'weight_decay': 0.2,
        'mu_dtype': 'float32',
    }
    check_config(config, devices=1, platform='cpu')


def test_what_differs():
    def masking(name, args=()):
        m = load(name, args).masking
        return m.strategy, m.min_ratio, m.max_ratio, m.candidate_ratio, m.mask_ratio

    assert masking('vitb16_pgs') == masking('vitb16_pgs', ('0.3',)) == ('pgs', 0.3, 0.5, 0.05, 0.5)
    assert masking('vitb16_pgs', ('0.5',)) == ('pgs', 0.5, 0.5, 0.05, 0.5)
    assert masking('vitb16_flip')[0] == 'random'
    assert masking('vitb16_flip')[-1] == 0.5
    assert masking('vitb16_clip')[0] == 'none'
    with pytest.raises(UserError, match=r':0\.7'):
        load('vitb16_pgs', ('0.7',))


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'args'), VITB16)
def test_each_trains_two_steps_on_the_default_data(name, args, tmp_path, capsys):
    """At the full 224 px and width, on fewer layers: CI has two cores."""
    config = load(name, args)
    config.update(batch_size=8, total_steps=2)
    config.data.name = 'openmoji'
    config.model.image.update(layers=1, width=192, heads=3)
    config.model.text.update(layers=1, width=128, heads=2)
    results = train(config, tmp_path / 'run')
    assert results['step'] == 2
    expected = {'pgs': 0.4, 'random': 0.5, 'none': 0.0}[config.masking.strategy]
    assert results['mask_ratio_mean'] == pytest.approx(expected, abs=0.101)
    assert 'warm-up (10000 steps)' in capsys.readouterr().out


def test_every_config_says_how_to_run_it():
    for name in ('quickstart', 'vitb16_pgs', 'vitb16_clip', 'vitb16_flip', 'vitb16_pgs_tune'):
        text = importlib.import_module(f'configs.{name}').__doc__
        assert 'python main.py' in text
        assert 'Time:' in text
        assert 'Result:' in text
