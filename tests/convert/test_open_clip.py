"""Our model with OpenCLIP's weights, compared with values computed by OpenCLIP."""

import json
from pathlib import Path

import flax
import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from configs import base
from pgs.convert.open_clip import load_open_clip
from pgs.convert.tensors import read_tensors
from pgs.errors import UserError
from pgs.loss import info_nce
from pgs.optimizer import build_optimizer

DATA = Path(__file__).parents[1] / 'data'
FIGURES = np.load(DATA / 'open_clip_small.npz')
WEIGHTS, CONFIG = DATA / 'open_clip_small.safetensors', DATA / 'open_clip_small.json'


@pytest.fixture(scope='module')
def loaded():
    return load_open_clip(WEIGHTS, CONFIG)


@pytest.fixture(scope='module')
def loss_fn(loaded):
    model, _ = loaded

    def loss(params):
        out = model.apply({'params': params}, FIGURES['images'], FIGURES['tokens'])
        return info_nce(out['image_features'], out['text_features'], out['logit_scale'])

    return loss


def test_features(loaded):
    model, params = loaded
    out = model.apply({'params': params}, FIGURES['images'], FIGURES['tokens'])
    for name in ('image_features', 'text_features', 'logit_scale'):
        np.testing.assert_allclose(out[name], FIGURES[name], atol=1e-5)


def test_loss_and_gradients(loaded, loss_fn):
    _, params = loaded
    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    np.testing.assert_allclose(loss, FIGURES['loss'], rtol=1e-5)
    np.testing.assert_allclose(optax.tree.norm(grads), FIGURES['grad_norm'], rtol=1e-4)
    conv = FIGURES['grad:visual.conv1.weight']
    expected = {
        'image_tower/patch_embedding/kernel': conv.transpose(2, 3, 1, 0).reshape(-1, conv.shape[0]),
        'image_tower/projection': FIGURES['grad:visual.proj'],
        'text_tower/projection': FIGURES['grad:text_projection'],
        'logit_scale': FIGURES['grad:logit_scale'],
    }
    flat = flax.traverse_util.flatten_dict(grads, sep='/')
    for name, figure in expected.items():
        error = np.linalg.norm(flat[name] - figure) / np.linalg.norm(figure)
        assert error < 1e-4, name


def test_ten_adamw_losses(loaded, loss_fn):
    _, params = loaded
    settings = base.get_config().optimizer
    optimizer = build_optimizer(settings, 1e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(10):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, FIGURES['losses_adamw'], atol=1e-4)


def test_a_missing_tensor_is_named(tmp_path):
    weights = load_file(WEIGHTS)
    del weights['visual.ln_pre.weight']
    save_file(weights, tmp_path / 'w.safetensors')
    with pytest.raises(UserError, match=r'visual\.ln_pre\.weight'):
        load_open_clip(tmp_path / 'w.safetensors', CONFIG)


def test_a_surplus_tensor_is_named(tmp_path):
    weights = load_file(WEIGHTS) | {'visual.attn_pool.query': np.zeros(3, np.float32)}
    save_file(weights, tmp_path / 'w.safetensors')
    with pytest.raises(UserError, match=r'visual\.attn_pool\.query'):
        load_open_clip(tmp_path / 'w.safetensors', CONFIG)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'embed_dim': 31}, r'proj.* has shape'),
        ({'vision_cfg': {'timm_model_name': 'x'}}, 'timm_model_name'),
        ({'vision_cfg': {'layers': 4}}, 'missing'),
        ({'text_cfg': {'layers': 1}}, 'surplus'),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(tmp_path, change, words):
    config = json.loads(CONFIG.read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        load_open_clip(WEIGHTS, path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r'absent\.safetensors'):
        load_open_clip(tmp_path / 'absent.safetensors', CONFIG)
    broken = tmp_path / 'broken.safetensors'
    broken.write_bytes(b'not a tensor file')
    with pytest.raises(UserError, match=r'broken\.safetensors'):
        load_open_clip(broken, CONFIG)


def test_a_header_with_a_line_break_is_refused_in_one_line(tmp_path):
    """Found by benchmarks.fuzz: the library's message quotes the dtype."""
    header = b'{"a": {"dtype": "\\n", "shape": [1], "data_offsets": [0, 4]}}'
    path = tmp_path / 'x.safetensors'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    with pytest.raises(UserError, match='as safetensors') as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1
