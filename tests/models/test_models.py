"""The towers: what masking does to their shapes and their outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from configs import base
from pgs.compile.flops import flops_of
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.selection import PatchSelection
from pgs.models import build_model
from pgs.models.attention import attention, fused
from pgs.models.clip import CLIP, unit_norm


def small_model_config(**changes):
    config = base.get_config().model.to_dict()
    config['embed_dim'] = 16
    config['image'] |= {'image_size': 32, 'patch_size': 8, 'width': 48, 'layers': 2, 'heads': 3}
    config['text'] |= {'context_length': 7, 'width': 32, 'layers': 2, 'heads': 2, 'vocab_size': 100}
    return config | changes


@pytest.fixture(scope='module')
def model_and_params():
    model = build_model(small_model_config(), dtype=jnp.float32)
    images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 7), jnp.int32)
    return model, model.init(jax.random.key(0), images, tokens)['params']


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 32, 32, 3)).astype(np.float32)
    return images, rng.integers(1, 99, (3, 7)).astype(np.int32)


def apply(model_and_params, images, tokens, select=None):
    model, params = model_and_params
    return model.apply({'params': params}, images, tokens, select)


def test_features_are_unit_float32(model_and_params, batch):
    out = apply(model_and_params, *batch)
    for name in ('image_features', 'text_features'):
        assert out[name].shape == (3, 16)
        assert out[name].dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(out[name], axis=-1), 1.0, rtol=1e-5)
    assert float(out['logit_scale']) == pytest.approx(1 / 0.07, rel=1e-5)


def test_masked_patches_cannot_be_seen(model_and_params, batch):
    """Neither a patch that was dropped nor one that is invalid changes the embedding."""
    images, tokens = batch
    keep = np.tile(np.array([0, 2, 5, 7, 9], np.int32), (3, 1))
    valid = np.tile(np.array([True, True, False, True, True]), (3, 1))

    def embed(images):
        select = lambda *_: PatchSelection(jnp.asarray(keep), jnp.asarray(valid))  # noqa: E731
        return apply(model_and_params, images, tokens, select)['image_features']

    def with_noise(patch):
        row, column = divmod(patch, 4)
        changed = images.copy()
        changed[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 3.0
        return changed

    before = embed(images)
    for unseen in (1, 5, 15):
        np.testing.assert_array_equal(embed(with_noise(unseen)), before)
    assert float(jnp.abs(embed(with_noise(7)) - before).max()) > 1e-3


def test_invalid_slots_equal_absent_slots(model_and_params, batch):
    images, tokens = batch
    wide = PatchSelection(
        jnp.tile(jnp.array([1, 3, 4, 8], jnp.int32), (3, 1)),
        jnp.tile(jnp.array([True, False, True, True]), (3, 1)),
    )
    narrow = PatchSelection(jnp.tile(jnp.array([1, 4, 8], jnp.int32), (3, 1)), None)
    a, b = (
        apply(model_and_params, images, tokens, lambda *_, s=s: s)['image_features']
        for s in (wide, narrow)
    )
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_each_image_has_its_own_mask(model_and_params, batch):
    """The published code repeats masks in the wrong order over batch and heads."""
    images, tokens = batch
    keep = jnp.array([[0, 1, 2], [3, 4, 5], [6, 7, 15]], jnp.int32)
    valid = jnp.array([[True, True, False], [True, False, True], [False, True, True]])
    together = apply(model_and_params, images, tokens, lambda *_: PatchSelection(keep, valid))
    for i in range(3):
        alone = apply(
            model_and_params,
            images[i : i + 1],
            tokens[i : i + 1],
            lambda *_, i=i: PatchSelection(keep[i : i + 1][:, valid[i]], None),
        )
        np.testing.assert_allclose(
            together['image_features'][i], alone['image_features'][0], atol=1e-6
        )


def tower_lengths(strategy_changes) -> set[int]:
    """Token counts on which the image tower's attention runs, read from the jaxpr of a gradient."""
    config = base.get_config()
    config.masking.update(strategy_changes)
    model_config = config.model.to_dict()
    model_config['image'] |= {'width': 96, 'heads': 3, 'layers': 2}
    model_config['text'] |= {'width': 64, 'layers': 1, 'heads': 2, 'context_length': 8}
    model = build_model(model_config, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']
    strategy = configured(config.masking, 16)

    def loss(params, images, tokens):
        select = lambda i, e: strategy(jax.random.key(0), i, e, 0.0)  # noqa: E731
        return model.apply({'params': params}, images, tokens, select)['image_features'].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, images, tokens)
    lengths = set()

    def walk(jaxpr, in_layers):
        for equation in jaxpr.eqns:
            for inner in jaxprs_in_params(equation.params):
                walk(inner, in_layers or equation.primitive.name == 'scan')
            for var in equation.outvars:
                shape = getattr(var.aval, 'shape', ())
                # tokens of a layer: (batch or groups of it, tokens, width or a multiple)
                if (
                    in_layers
                    and len(shape) == 3
                    and shape[0] <= 2 < shape[1]
                    and shape[2] in (96, 288, 384)
                ):
                    lengths.add(shape[1])

    walk(jaxpr.jaxpr, False)
    return lengths


def test_the_image_tower_runs_on_the_kept_tokens_only():
    assert tower_lengths({'strategy': 'none'}) == {197}
    assert tower_lengths({'strategy': 'random', 'mask_ratio': 0.5}) == {99}
    assert tower_lengths({'strategy': 'pgs', 'min_ratio': 0.5, 'max_ratio': 0.5}) == {99}
    by_content = {'strategy': 'pgs', 'min_ratio': 0.3, 'max_ratio': 0.5}
    # Two images end to end, one in each bucket; a layer's attention sees them apart.
    assert 99 + 138 in tower_lengths(by_content) <= {99, 138, 99 + 138}
    assert tower_lengths(by_content | {'long_share': 1.0}) == {138}


def test_no_attention_mask_where_all_slots_count():
    def text_of(changes):
        config = base.get_config()
        config.masking.update(changes)
        model = build_model(small_model_config(), dtype=jnp.float32)
        images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 7), jnp.int32)
        params = model.init(jax.random.key(0), images, tokens)['params']
        strategy = configured(config.masking, 8)
        select = lambda i, e: strategy(jax.random.key(0), i, e, 0.0)  # noqa: E731
        apply = lambda images: model.apply({'params': params}, images, select, method=_embed)  # noqa: E731
        return jax.jit(apply).lower(images).as_text()

    def _embed(self, images, select):
        return self.image_tower(images, select)[0]

    shut_out = f'{-0.7 * np.finfo(np.float32).max:.6e}'.split('e')[0][:-1]  # a logit's value
    assert shut_out in text_of({'min_ratio': 0.3, 'max_ratio': 0.5})
    assert shut_out not in text_of({'min_ratio': 0.5, 'max_ratio': 0.5})


def test_text_after_the_end_token_is_not_seen(model_and_params, batch):
    images, tokens = batch
    tokens = np.minimum(tokens, 90)
    tokens[:, 3] = 99  # the highest id ends the text
    other = tokens.copy()
    other[:, 5] = 7
    features = [apply(model_and_params, images, t)['text_features'] for t in (tokens, other)]
    np.testing.assert_array_equal(*features)


def test_short_rows_use_the_first_positions(model_and_params, batch):
    """Captions that end within five tokens, in rows of five and of seven."""
    images, tokens = batch
    tokens = np.minimum(tokens, 90)
    tokens[:, 4] = 99
    features = [
        apply(model_and_params, images, t)['text_features'] for t in (tokens, tokens[:, :5])
    ]
    np.testing.assert_allclose(*features, atol=1e-6)


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_remat_changes_memory_not_values(model_and_params, batch, remat):
    _, params = model_and_params
    models = [
        build_model(small_model_config(remat=name), dtype=jnp.float32) for name in ('none', remat)
    ]

    def loss(params, model):
        out = model.apply({'params': params}, *batch)
        return (out['image_features'] @ out['text_features'].T).sum()

    plain, again = (jax.grad(loss)(params, m) for m in models)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    products = [flops_of(jax.grad(lambda p, m=m: loss(p, m)), params) for m in models]
    assert products[1] > products[0]  # the backward pass computes some again


@pytest.mark.parametrize('unroll', [2, 12])
def test_unrolled_blocks_compute_the_same_with_the_same_parameters(model_and_params, batch, unroll):
    model, params = model_and_params
    unrolled = build_model(small_model_config(unroll=unroll), dtype=jnp.float32)

    def features(params, model):
        return model.apply({'params': params}, *batch)['image_features']

    loops, once = (jax.make_jaxpr(features, static_argnums=1)(params, m) for m in (model, unrolled))
    assert str(loops) != str(once)
    np.testing.assert_allclose(
        features(params, model), features(params, unrolled), rtol=1e-5, atol=1e-6
    )


def test_the_form_for_a_tpu_has_the_same_parameters_and_results(model_and_params, batch):
    """Queries, keys and values as three products, and no loop over the layers."""
    model, params = model_and_params
    on_tpu = build_model(small_model_config(), dtype=jnp.float32, platform='tpu')
    assert on_tpu.image.transformer.unroll == small_model_config()['image']['layers']
    images, tokens = batch
    again = on_tpu.init(jax.random.key(0), images[:1], tokens[:1])['params']
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, again)

    def loss(params, model):
        out = model.apply({'params': params}, *batch)
        return jnp.sum(out['image_features'] @ out['text_features'].T)

    gradients = [jax.grad(loss)(params, m) for m in (model, on_tpu)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)
    np.testing.assert_allclose(loss(params, model), loss(params, on_tpu), rtol=1e-5)


def test_bfloat16_computes_close_to_float32(model_and_params, batch):
    model, params = model_and_params
    half = build_model(small_model_config(), dtype=jnp.bfloat16)
    a, b = (m.apply({'params': params}, *batch) for m in (model, half))
    assert b['image_features'].dtype == jnp.float32
    assert float((a['image_features'] * b['image_features']).sum(-1).min()) > 0.99


def test_select_patches_gives_the_selection_of_the_forward_pass(model_and_params, batch):
    model, params = model_and_params
    strategy = configured(base.get_config().masking, 8)
    select = lambda i, e: strategy(jax.random.key(0), i, e, 1.0)  # noqa: E731
    alone = model.apply({'params': params}, batch[0], select, method=CLIP.select_patches)
    within = apply(model_and_params, *batch, select)['selection']
    np.testing.assert_array_equal(alone.keep_ids, within.keep_ids)


def test_unit_norm_of_zero_is_zero():
    assert float(jnp.abs(unit_norm(jnp.zeros((2, 3)))).max()) == 0.0


@pytest.mark.parametrize(
    ('part', 'changes', 'words'),
    [
        ('image', {'image_size': 33}, 'image_size=33'),
        ('image', {'patch_size': 64}, 'patch_size=64'),
        ('image', {'heads': 5}, 'heads=5'),
        ('text', {'heads': 0}, 'heads=0'),
    ],
)
def test_sizes_that_do_not_fit_are_named(part, changes, words):
    config = small_model_config()
    config[part] |= changes
    with pytest.raises(UserError, match=words):
        build_model(config, dtype=jnp.float32)


def test_an_unroll_that_does_not_divide_the_layers_is_named():
    config = small_model_config(unroll=2)
    config['text']['layers'] = 3
    with pytest.raises(
        UserError, match=r'unroll=2 does not divide the 3 layers .* take 1, 3, or 0'
    ):
        build_model(config, dtype=jnp.float32)


def test_unknown_remat_policy_is_named():
    with pytest.raises(UserError, match="remat='some'"):
        build_model(small_model_config(remat='some'), dtype=jnp.float32)


@pytest.mark.parametrize(
    ('backend', 'dtype', 'width', 'expected'),
    [
        ('gpu', jnp.bfloat16, 64, 'cudnn'),
        ('gpu', jnp.float32, 64, None),
        ('gpu', jnp.bfloat16, 12, None),
        ('gpu', jnp.bfloat16, 256, None),
        ('tpu', jnp.bfloat16, 64, None),
        ('cpu', jnp.bfloat16, 64, None),
    ],
)
def test_fused_attention_where_cudnn_takes_it(monkeypatch, backend, dtype, width, expected):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    assert fused(jnp.zeros((1, 2, 1, width), dtype)) == expected


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('lengths', [None, [3, 7, 5]])
def test_cudnn_gets_even_numbers_of_tokens_and_the_result_stays(monkeypatch, lengths, causal):
    """JAX refuses its gradient for odd ones. XLA stands in for cuDNN here."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 3, 7, 2, 8), jnp.bfloat16)
    lengths = None if lengths is None else jnp.array(lengths, jnp.int32)
    expected = attention(q, k, v, lengths, causal=causal)
    xla = jax.nn.dot_product_attention

    def cudnn(q, k, v, *, implementation, **settings):
        assert implementation == 'cudnn'
        assert {x.shape[1] for x in (q, k, v)} == {8}
        return xla(q, k, v, implementation='xla', **settings)

    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax.nn, 'dot_product_attention', cudnn)
    found = attention(q, k, v, lengths, causal=causal)
    np.testing.assert_allclose(np.float32(found), np.float32(expected), atol=0.01)
