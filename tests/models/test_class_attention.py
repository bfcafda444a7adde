"""The attention of the class token against full softmax attention, the EMA tower, and the cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import shrunk_quickstart

from configs import base
from pgs.compile.flops import flops_of
from pgs.convert.positions import resize_positions
from pgs.masking import configured
from pgs.models import build_model
from pgs.models.class_attention import class_attention, make_scorer, moved_average
from pgs.models.clip import CLIP


@pytest.fixture(scope='module')
def tower():
    """(settings of a small image tower, its parameters)."""
    settings = shrunk_quickstart(total_steps=1).model
    model = build_model(settings, dtype=jnp.float32)
    images = jnp.zeros((1, 32, 32, 3))
    params = model.init(jax.random.key(0), images, method=CLIP.embed_images)['params']
    # Larger weights than at the start, so that attention is far from uniform.
    return model.image, jax.tree.map(lambda x: 1.5 * x, params['image_tower'])


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)


def layer_norm(x, gains):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return x * gains['scale'] + gains['bias']


def full_attention(tower, images, patch, heads):
    """Every attention matrix of a tower, float64 (layers, B, heads, T, T), step by step."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), tower)
    b, size, _, c = images.shape
    rows = size // patch
    patches = images.reshape(b, rows, patch, rows, patch, c).swapaxes(2, 3)
    x = patches.reshape(b, rows**2, -1) @ p['patch_embedding']['kernel'] + p['positions'][1:]
    first = np.broadcast_to(p['class_token'] + p['positions'][0], (b, 1, x.shape[2]))
    x = layer_norm(np.concatenate([first, x], axis=1), p['ln_pre'])
    blocks, found = p['transformer']['blocks'], []
    for i in range(len(blocks['qkv']['bias'])):
        layer = jax.tree.map(lambda w, i=i: w[i], blocks)
        qkv = layer_norm(x, layer['ln_1']) @ layer['qkv']['kernel'] + layer['qkv']['bias']
        q, k, v = (
            a.reshape(*a.shape[:2], heads, -1).swapaxes(1, 2) for a in np.split(qkv, 3, axis=-1)
        )
        logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        found.append(weights / weights.sum(axis=-1, keepdims=True))
        h = (found[-1] @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + h @ layer['out']['kernel'] + layer['out']['bias']
        h = layer_norm(x, layer['ln_2']) @ layer['fc']['kernel'] + layer['fc']['bias']
        h = np.asarray(jax.nn.gelu(h, approximate=False))
        x = x + h @ layer['proj']['kernel'] + layer['proj']['bias']
    return np.stack(found)


@pytest.mark.parametrize('remat', ['none', 'dots'])
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_it_is_the_mean_over_layers_and_heads_of_full_attention(tower, images, scale, remat):
    settings, params = tower
    transformer = dataclasses.replace(settings.transformer, remat=remat)
    settings = dataclasses.replace(settings, transformer=transformer)
    got = jax.jit(lambda p, x: class_attention(settings, p, x, scale))(params, images)
    if scale == 0.5:
        images = images.reshape(3, 16, 2, 16, 2, 3).mean(axis=(2, 4))
        params = params | {'positions': resize_positions(np.asarray(params['positions']), 2)}
    every = full_attention(params, images, 8, 2)
    assert every.shape[:3] == (2, 3, 2)
    expected = every[:, :, :, 0, 1:].mean(axis=(0, 2))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected.std() > 0.005  # not uniform
    assert (expected.sum(axis=1) < 1.0).all()


def test_no_gradient_flows_through_the_scorer(tower, images):
    settings, params = tower
    gradient = jax.grad(lambda p: (class_attention(settings, p, images, 0.5) ** 2).sum())(params)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(gradient))


def test_a_strategy_that_asks_for_nothing_gets_nothing(tower, images):
    settings, params = tower
    for name, expected in (('random', []), ('pgs', []), ('attentive', ['attention'])):
        score = make_scorer(configured({'strategy': name}, 8), settings)
        assert list(score(params, images)) == expected


@pytest.mark.parametrize(('progress', 'rate'), [(0.0, 0.004), (0.5, 0.002), (1.0, 0.0)])
def test_the_average_moves_by_a_cosine(progress, rate):
    ema, new = {'w': jnp.array([1.0, -2.0])}, {'w': jnp.array([3.0, 2.0])}
    moved = moved_average(ema, new, jnp.float32(progress), 0.996)
    np.testing.assert_allclose(moved['w'], [1.0 + 2.0 * rate, -2.0 + 4.0 * rate], rtol=1e-6)
    np.testing.assert_array_equal(moved_average(new, new, jnp.float32(0.3), 0.996)['w'], new['w'])


def test_the_half_resolution_scorer_costs_at_most_a_tenth_of_the_image_tower():
    """ViT-B/16 at 224 pixels, against forward and backward pass of the unmasked image tower."""
    settings = base.get_config().model
    settings.remat = 'none'
    model = build_model(settings, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    init = jax.eval_shape(
        lambda k, x: model.init(k, x, method=CLIP.embed_images), jax.random.key(0), images
    )
    params = init['params']

    def embed(params, images):
        return model.apply({'params': params}, images, method=CLIP.embed_images).sum()

    step = flops_of(jax.grad(embed), params, images)
    half, full = (
        flops_of(
            lambda p, x, s=s: class_attention(model.image, p, x, s), params['image_tower'], images
        )
        for s in (0.5, 1.0)
    )
    print(f'\nscorer / unmasked image tower step: half {half / step:.4f}, full {full / step:.4f}')
    assert 0.05 < half / step < 0.10
    assert 0.30 < full / step < 0.36
