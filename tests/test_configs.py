"""The configs: the paper's recipe to the digit, and each of them runs."""

import importlib

import numpy as np
import pytest

from benchmarks import common
from pgs.build import check_config
from pgs.errors import UserError
from pgs.run import summary
from pgs.train import train

VITB16 = [
    ('vitb16_pgs', ()),
    ('vitb16_pgs', ('0.5',)),
    ('vitb16_clip', ()),
    ('vitb16_flip', ()),
    ('vitb16_eclip', ()),
    ('vitb16_glip', ()),
    ('vitb16_aclip', ()),
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
        'tokens_per_pair': 32,
    }
    assert config.optimizer.to_dict() == {
        'peak_learning_rate': 1e-3,
        'warmup_steps': 10_000,
        'schedule': 'cosine',
        'decay_share': 0.1,
        'tail_rate': 0.0,
        'tail_warmup_steps': 0,
        'beta1': 0.9,
        'beta2': 0.98,
        'epsilon': 1e-6,
        'weight_decay': 0.2,
        'mu_dtype': 'float32',
        'clip_norm': 0.0,
        'layer_decay': 1.0,
        'frozen': (),
        'frozen_image_layers': 0,
        'frozen_text_layers': 0,
    }
    assert (config.weights_ema, config.model_from_weights) == (0.0, False)
    assert (config.masking.until, config.masking.whole_share) == (1.0, 0.0)
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


def test_recipes_of_the_peers():
    """The paper's common recipe by default, their own ones by :published."""
    common = load('vitb16_clip').to_dict()
    for name, strategy in (
        ('vitb16_eclip', 'cluster'),
        ('vitb16_glip', 'gaussian'),
        ('vitb16_aclip', 'attentive'),
    ):
        expected = common | {'masking': common['masking'] | {'strategy': strategy}}
        assert load(name).to_dict() == load(name, ('common',)).to_dict() == expected
        with pytest.raises(UserError, match=f'{name}.py:own is not a recipe: .*:published'):
            load(name, ('own',))
        check_config(load(name, ('published',)), devices=1, platform='cpu')

    calibrated = load('vitb16_eclip').to_dict()
    calibrated['masking']['cluster_target'] = 0.5
    assert load('vitb16_eclip', ('calibrated',)).to_dict() == calibrated
    check_config(load('vitb16_eclip', ('calibrated',)), devices=1, platform='cpu')

    eclip, glip = load('vitb16_eclip', ('published',)), load('vitb16_glip', ('published',))
    assert (eclip.batch_size, eclip.epochs, eclip.masking.min_ratio) == (2048, 32, 0.3)
    assert (eclip.optimizer.peak_learning_rate, eclip.optimizer.warmup_steps) == (5e-4, 2000)
    assert (eclip.masking.anchor_ratio, eclip.masking.cluster_threshold) == (0.03, 0.5)
    assert eclip.masking.cluster_target == 0.0
    assert (glip.batch_size, glip.epochs, glip.masking.mask_ratio) == (1280, 30, 0.5)
    assert glip.data.crop_scale == (0.5, 1.0)
    assert glip.masking.covariance == 0.2

    aclip = load('vitb16_aclip', ('published',))
    assert (aclip.batch_size, aclip.epochs, aclip.data.crop_scale) == (4096, 25, (0.5, 1.0))
    assert (aclip.optimizer.peak_learning_rate, aclip.optimizer.warmup_steps) == (5e-4, 2678)
    assert (aclip.optimizer.weight_decay, aclip.optimizer.epsilon) == (0.5, 1e-8)
    assert (aclip.masking.mask_ratio, aclip.masking.ema_decay) == (0.5, 0.996)


def on_fewer_layers(config):
    """At the full 224 px, but narrower: CI has two cores."""
    config.update(batch_size=8, total_steps=2)
    config.model.image.update(layers=1, width=192, heads=3)
    config.model.text.update(layers=1, width=128, heads=2)
    return config


MASKED = {
    'pgs': (0.299, 0.501),
    'random': (0.499, 0.501),
    'gaussian': (0.499, 0.501),
    'cluster': (0.299, 0.995),
    'attentive': (0.489, 0.491),
    'none': (0.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'args'), VITB16)
def test_the_step_of_each_runs_twice(name, args):
    config = on_fewer_layers(load(name, args))
    step, state, batch = common.compiled_step(config)
    for _ in range(2):
        state, metrics = step(state, batch)
    assert int(state.step) == 2
    assert np.isfinite(metrics['loss'])
    low, high = MASKED[config.masking.strategy]
    assert low <= metrics['mask_ratio'] <= high


@pytest.mark.slow
def test_the_recipe_trains_on_the_default_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(summary, 'measure_retention', lambda *args: None)
    config = on_fewer_layers(load('vitb16_pgs'))
    config.data.update(name='openmoji', validation_split='absent')
    results = train(config, tmp_path / 'run')
    assert results['step'] == 2
    assert 0.299 <= results['mask_ratio_mean'] <= 0.501
    assert 'warm-up (10000 steps)' in capsys.readouterr().out


def test_every_config_says_how_to_run_it():
    names = ('clip', 'flip', 'eclip', 'glip', 'aclip', 'pgs', 'pgs_tune')
    for name in ('quickstart', 'finetune', *(f'vitb16_{name}' for name in names)):
        text = importlib.import_module(f'configs.{name}').__doc__
        assert 'python main.py' in text
        assert 'Time:' in text
        assert 'Result:' in text
