"""The table of keys: complete, documented, and a check that names key, value and remedy."""

import inspect
import math

import pytest

from configs import base
from pgs.build import check_config
from pgs.config_page import PAGE, page
from pgs.config_table import MAX_SEED, TABLE, check_value, check_values, flat
from pgs.errors import UserError
from pgs.masking.strategies import RUN_KEYS, SELECTOR, all_options_of, known_strategies

BUILT_IN = {'none', 'random', 'gaussian', 'cluster', 'attentive', 'pgs', 'background'}
DEFAULTS = flat(base.get_config())

# Key, value, and words of the message: the nearest valid value, or the range.
BAD = [
    ('seed', 2**40, 'a whole number from 0 to 4294967295: take 4294967295'),
    ('seed', -1, 'take 0'),
    ('seed', True, 'a whole number from 0'),
    ('seed', None, 'the default is 0'),
    ('batch_size', 10**12, 'take 4194304'),
    ('epochs', 0, 'take 1'),
    ('total_steps', -5, 'at least 1 or None: take 1'),
    ('log_every', 10**400, 'take 1000000000'),
    ('checkpoints_kept', 0, 'take 1'),
    ('checkpoints_kept_every', -1, 'take 0'),
    ('checkpoint_best', 'eval/val_loss', 'needs scores while the run goes on: set config.evals'),
    ('mesh.data', -2, 'at least 1 or -1: take 1'),
    ('init_from', 'a\0b', 'a text'),
    ('eval_data_root', '', 'not empty'),
    ('evals', ('',), "such as ('held_out',)"),
    ('data.name', '', "not empty; the default is 'cc12m'"),
    ('data.dir', 'caf\udce9', 'a text'),
    (
        'data.crop_scale',
        (1e-7, 2e-7),
        '0.01 <= smallest <= largest <= 1; the default is (0.9, 1.0)',
    ),
    ('data.crop_scale', (0.5,), '0.01 <= smallest <= largest <= 1'),
    ('data.crop_scale', (1.0, 0.5), 'smallest <= largest'),
    ('data.crop_scale', (math.nan, 1.0), 'smallest <= largest'),
    ('data.crop_scale', ('a', 'b'), 'smallest <= largest'),
    ('data.mixture', (1, 2), 'config.data.mixture row 1 must be (name, dir, weight above 0)'),
    ('data.mixture', (('a', 'b', math.inf),), 'weight above 0'),
    ('data.mixture', (('a', 'b', 'c'),), 'weight above 0'),
    ('model.embed_dim', 0, 'take 1'),
    ('model.dtype', 'bfloat', "did you mean 'bfloat16'? take one of auto, float32, bfloat16"),
    ('model.image.image_size', 2**20, 'take 4096'),
    ('model.image.patch_size', 0, 'take 1'),
    ('model.image.patch_size', 1, 'makes 50176 patches: take sizes that make at most 4096'),
    ('model.image.layers', 0, 'take 1'),
    ('model.image.mlp_ratio', -1.0, 'above 0 and at most 100; the default is 4.0'),
    ('model.image.mlp_ratio', 1e-6, 'leaves no hidden width for a width of 768: take at least'),
    ('model.text.context_length', 1, 'from 3 to 65536: take 3'),
    ('model.text.layers', 0, 'take 1'),
    ('model.text.mlp_ratio', -1.0, 'above 0'),
    ('model.text.vocab_size', 10, "less than the 49408 ids of CLIP's tokenizer: take 49408"),
    ('masking.until', math.nan, 'from 0 to 1; the default is 1.0'),
    ('masking.edge_weight', math.inf, 'from 0 to 1e+06: take 1e+06'),
    ('masking.edge_weight', -1.0, 'take 0'),
    ('masking.min_ratio', -0.1, 'from 0 to below 1: take 0'),
    ('masking.edge_detector', 'cany', "did you mean 'canny'?"),
    ('text_masking.threshold', math.nan, 'above 0'),
    ('optimizer.peak_learning_rate', -1.0, 'at least 0: take 0'),
    ('optimizer.peak_learning_rate', math.nan, 'at least 0; the default is 0.001'),
    ('optimizer.peak_learning_rate', math.inf, 'at least 0; the default is 0.001'),
    ('optimizer.peak_learning_rate', 1e300, 'at least 0; the default is 0.001'),
    ('optimizer.warmup_steps', -1, 'at least 0: take 0'),
    ('optimizer.beta1', 2.0, 'from 0 to below 1; the default is 0.9'),
    ('optimizer.beta2', 1 - 1e-12, 'from 0 to below 1; the default is 0.98'),  # 1 in float32
    ('optimizer.epsilon', 1e-60, 'above 0; the default is 1e-06'),  # 0 in float32
    ('optimizer.weight_decay', -0.1, 'take 0'),
    ('weights_ema', 1.0, 'from 0 to below 1; the default is 0.0'),
    ('optimizer.schedule', 'wds', "did you mean 'wsd'? take one of cosine, constant, wsd"),
    ('optimizer.layer_decay', 0.0, 'above 0 and at most 1; the default is 1.0'),
    ('optimizer.frozen', ('img',), "a tuple of image and text, such as ('image',)"),
    ('optimizer.frozen', 'text', "a tuple, such as ('text',)"),
    ('optimizer.frozen_text_layers', 13, 'of the text tower: take at most 12'),
    ('optimizer.mu_dtype', 'float16', "did you mean 'bfloat16'?"),
]


def test_each_key_has_a_row():
    """A key that is new in configs/base.py needs its range and meaning here."""
    assert list(TABLE) == [key for key in TABLE if key in DEFAULTS]
    assert set(TABLE) == set(DEFAULTS)


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), 'run: python -m pgs.config_page'


def test_the_defaults_are_valid():
    check_values(base.get_config())


def test_the_table_has_every_option_of_the_strategies_and_no_other():
    options = {f'masking.{o}' for n in BUILT_IN for o in all_options_of(known_strategies()[n])}
    others = {f'masking.{key}' for key in (SELECTOR, *RUN_KEYS)}
    assert {key for key in TABLE if key.startswith('masking.')} == options | others


@pytest.mark.parametrize(('key', 'value', 'words'), BAD, ids=lambda part: repr(part)[:30])
def test_a_bad_value_is_named_with_the_remedy(key, value, words):
    config = base.get_config()
    config.total_steps = 1
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        check_config(config, devices=1, platform='cpu')
    message = str(error.value)
    assert key.split('.')[-1] in message
    assert words in message
    assert len(message.splitlines()) == 1
    assert len(message) < 300


def test_each_key_refuses_values_of_another_type():
    for key, row in TABLE.items():
        wrong = [None, object(), {}, b'x', math.nan, (None,), '\0', float('inf'), 10**5000]
        for value in wrong:
            if value in row.besides or (row.kind == 'rows' and isinstance(value, tuple)):
                continue
            with pytest.raises(UserError, match=f'^config.{key}='):
                check_value(key, value, DEFAULTS[key])


def test_values_on_the_border_are_valid():
    for key, value in (
        ('seed', MAX_SEED),
        ('data.crop_scale', (1.0, 1.0)),
        ('masking.min_ratio', 0),
        ('masking.fixed_progress', -1),
        ('optimizer.beta1', 0.0),
        ('optimizer.peak_learning_rate', 1e30),
        ('optimizer.warmup_steps', 0),
    ):
        check_value(key, value, DEFAULTS[key])


def test_unknown_and_missing_keys_are_named():
    config = base.get_config()
    config.batchsize = 3
    with pytest.raises(
        UserError, match=r'config.batchsize is unknown: did you mean config.batch_s'
    ):
        check_values(config)
    config = base.get_config()
    del config.optimizer.beta1
    with pytest.raises(UserError, match=r'config.optimizer.beta1 is missing: the default is 0.9'):
        check_values(config)
    config = base.get_config()
    del config.masking.epsilon  # the signature has its default
    check_values(config)


def test_options_of_another_strategy_are_its_own(monkeypatch):
    """A strategy may have new options, and some of a known name with another meaning."""

    def mine(rng, images, patch_embeddings, progress, *, patch_size, threshold=-5.0, speed=2.0):
        raise AssertionError('must not be called')

    assert 'threshold' in inspect.signature(mine).parameters
    strategies = known_strategies() | {'mine': mine}
    monkeypatch.setattr('pgs.config_table.known_strategies', lambda: strategies)
    config = base.get_config()
    config.masking.update(strategy='mine', threshold=-3.0, speed=1.0)
    check_values(config)
    config.masking.edge_weight = -1.0  # not an option of `mine`: the value stays checked
    with pytest.raises(UserError, match=r'masking\.edge_weight'):
        check_values(config)
