"""The kernel for TPUs, interpreted on a CPU and compiled for each generation."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from configs import base
from pgs import sharding
from pgs.compile.aot import NOT_KEPT, jax_settings
from pgs.compile.flops import flops_of
from pgs.compile.topology import devices_of
from pgs.errors import UserError
from pgs.masking import configured
from pgs.models import attention, build_model, tpu_attention

WIDTH = 128


def inputs(count: int, tokens: int, dtype=jnp.float32) -> list[jax.Array]:
    """Random q, k, v and a gradient of the result, (N, T, W)."""
    keys = jax.random.split(jax.random.key(tokens), 4)
    return [jax.random.normal(key, (count, tokens, WIDTH)).astype(dtype) for key in keys]


def results(attend, arrays, lengths, *, heads, causal=False) -> list[jax.Array]:
    """The result and the gradients of q, k and v, (N, T, W) each."""

    def side_by_side(*qkv):
        by_head = (rearrange(x, 'n t (h d) -> n t h d', h=heads) for x in qkv)
        return rearrange(attend(*by_head, lengths, causal=causal), 'n t h d -> n t (h d)')

    *qkv, gradient = arrays
    out, backward = jax.vjp(side_by_side, *qkv)
    return [out, *backward(gradient)]


interpreted = functools.partial(tpu_attention.attention, interpret=True)


@pytest.mark.parametrize('tokens', [8, 13])
@pytest.mark.parametrize('heads', [1, 2, 4])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('lengths', [None, [1, 5, 8]])
def test_results_and_gradients_are_those_of_xlas_attention(tokens, heads, causal, lengths):
    arrays = inputs(3, tokens)
    lengths = None if lengths is None else jnp.array(lengths, jnp.int32)
    found = results(interpreted, arrays, lengths, heads=heads, causal=causal)
    expected = results(attention.attention, arrays, lengths, heads=heads, causal=causal)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_in_bfloat16_the_error_is_not_above_that_of_xlas_attention():
    arrays = inputs(2, 99, jnp.bfloat16)
    exact = results(attention.attention, [a.astype(jnp.float32) for a in arrays], None, heads=2)
    errors = [
        [jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in zip(found, exact, strict=True)]
        for found in (results(f, arrays, None, heads=2) for f in (interpreted, attention.attention))
    ]
    assert max(errors[0]) < 1.1 * max(errors[1]) < 0.01


def test_each_device_computes_its_sequences():
    mesh = sharding.make_mesh({'data': -1}, 16)
    arrays, lengths = inputs(16, 8), jnp.arange(16, dtype=jnp.int32) % 8 + 1
    expected = results(attention.attention, arrays, lengths, heads=2)
    placed = jax.device_put((arrays, lengths), NamedSharding(mesh, PartitionSpec(sharding.AXES)))
    with jax.set_mesh(mesh):
        attend = functools.partial(results, interpreted, heads=2)
        found = jax.jit(attend)(*placed)
        assert flops_of(attend, *placed) == 7 * 2 * 16 * 8**2 * WIDTH  # of all devices
    for a, b in zip(found, expected, strict=True):
        assert a.sharding.shard_shape(a.shape) == (2, 8, WIDTH)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_its_flops_are_those_of_the_products_and_not_of_the_zeros():
    arrays = inputs(3, 8)
    attend = functools.partial(results, interpreted, heads=2)
    # Two products forward and five backward, without XLA's three with the identity.
    assert flops_of(attend, arrays, None) == 7 * 2 * 3 * 8**2 * WIDTH


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu')
@pytest.mark.parametrize('topology', ['v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'])
@pytest.mark.parametrize('lengths', [False, True])
def test_every_generation_of_tpu_compiles_it(topology, lengths):
    """Forward and backward, with a number of tokens that no tile divides."""
    mesh = sharding.make_mesh({'data': -1}, 4, devices_of(topology))
    rows = NamedSharding(mesh, PartitionSpec(sharding.AXES))
    arrays = [jax.ShapeDtypeStruct((4, 99, WIDTH), jnp.bfloat16, sharding=rows)] * 4
    of_each = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=rows) if lengths else None
    attend = functools.partial(results, tpu_attention.attention, heads=2)
    with jax.set_mesh(mesh), jax_settings(NOT_KEPT):
        text = jax.jit(attend).lower(arrays, of_each).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert 'all-gather' not in text


@pytest.mark.parametrize(
    ('images', 'tokens', 'expected'), [(64, 99, False), (32, 138, True), (128, 99, True)]
)
def test_it_is_used_where_the_logits_of_a_device_are_large(images, tokens, expected):
    def queries(count):
        return jax.ShapeDtypeStruct((count, tokens, 12, 64), jnp.bfloat16)

    assert tpu_attention.pays(queries(images)) == expected
    with jax.set_mesh(sharding.make_mesh({'data': -1}, 8)):
        assert tpu_attention.pays(queries(8 * images)) == expected
        assert not tpu_attention.pays(queries(8 * images + 1))


def settings(**changes):
    """Of a model whose heads fill registers."""
    config = base.get_config().model.to_dict()
    config['image'] |= {'image_size': 32, 'patch_size': 8, 'width': 128, 'layers': 2, 'heads': 2}
    config['text'] |= {'context_length': 7, 'width': 128, 'layers': 1, 'heads': 4}
    return config | {'embed_dim': 16, **changes}


def test_a_model_has_the_same_embeddings_and_gradients_with_it(monkeypatch):
    """PGS with several ratios in a budget: the long images have lengths."""
    monkeypatch.setattr(tpu_attention, 'attention', interpreted)
    monkeypatch.setattr(tpu_attention, 'FEW_LOGITS', 0)
    masking = base.get_config().masking
    masking.update(min_ratio=0.3, max_ratio=0.5)
    strategy = configured(masking, 8)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    tokens = jnp.array([[300, 5, 6, 301, 0, 0, 0]] * 4, jnp.int32)

    def select(images, x_BxLxD):
        return strategy(jax.random.key(2), images, x_BxLxD, 0.5)

    def loss(params, model):
        out = model.apply({'params': params}, images, tokens, select)
        return jnp.sum(out['image_features'] @ out['text_features'].T)

    models = [
        build_model(settings(attention=name), dtype=jnp.float32, platform='tpu')
        for name in ('auto', 'pallas')
    ]
    params = models[0].init(jax.random.key(0), images, tokens)['params']
    plain_program, with_kernel = (
        str(jax.make_jaxpr(loss, static_argnums=1)(params, m)) for m in models
    )
    assert 'pallas_call' not in plain_program
    assert with_kernel.count('pallas_call') == 3  # short and long images, captions
    (a, a_grads), (b, b_grads) = (jax.value_and_grad(loss)(params, m) for m in models)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), a_grads, b_grads
    )


def test_where_it_does_not_run_it_says_so():
    with pytest.raises(
        UserError, match=r"a kernel for TPUs, and this is cpu: take model\.attention='auto'"
    ):
        build_model(settings(attention='pallas'), dtype=jnp.float32, platform='cpu')
    narrow = settings(attention='pallas')
    narrow['image'] |= {'width': 96, 'heads': 3}
    with pytest.raises(UserError, match=r'model\.image\.width=96 has 3 heads'):
        build_model(narrow, dtype=jnp.float32, platform='tpu')
