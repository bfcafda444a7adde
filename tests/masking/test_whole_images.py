"""Whole images among masked ones: how many, which, what they cost, and that embeddings stay right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, quickstart
from pgs.compile.flops import flops_of
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.selection import mask_ratio, visible_patches
from pgs.masking.strategies import selection_shape
from pgs.masking.whole_images import keep_some_whole
from pgs.models import build_model

BATCH, LENGTH = 32, 64


@pytest.fixture(scope='module')
def inputs():
    keys = jax.random.split(jax.random.key(0), BATCH)
    images = jax.random.normal(jax.random.key(1), (BATCH, 64, 64, 3))
    images = images * jnp.linspace(0.0, 1.0, 64)[:, None]  # some patches are flat
    return keys, images, jax.random.normal(jax.random.key(2), (BATCH, LENGTH, 8))


def strategy_of(share, **changes):
    masking = base.get_config().masking.to_dict() | changes
    return keep_some_whole(configured(masking, 8), share, masking['budget_group'])


def test_a_share_of_zero_is_the_strategy_itself():
    plain = configured(base.get_config().masking, 8)
    assert keep_some_whole(plain, 0.0, 16) is plain


@pytest.mark.parametrize(
    'changes', [{}, {'min_ratio': 0.5}, {'long_share': 1.0}, {'strategy': 'random'}]
)
@pytest.mark.parametrize(('share', 'count'), [(0.0625, 1), (0.1, 2), (0.75, 12), (1.0, 16)])
def test_each_group_has_that_many_whole_images_and_the_others_their_mask(
    inputs, changes, share, count
):
    plain = visible_patches(jax.jit(strategy_of(0.0, **changes))(*inputs, 0.3), LENGTH)
    selection = jax.jit(strategy_of(share, **changes))(*inputs, 0.3)
    shown = visible_patches(selection, LENGTH)
    whole = shown.all(axis=1)
    np.testing.assert_array_equal(whole.reshape(-1, 16).sum(axis=1), count)
    np.testing.assert_array_equal(shown[~whole], plain[~whole])
    np.testing.assert_allclose(mask_ratio(selection, LENGTH), 1 - shown.mean(axis=1), atol=1e-6)
    assert sum(size.images for size in selection.buckets.sizes) == 16
    # Every image finds room: sorted by what they keep, each fits its bucket, exactly or padded.
    counts = np.sort(shown.sum(axis=1).reshape(-1, 16), axis=1)
    start = 0
    for size in selection.buckets.sizes:
        part = counts[:, start : start + size.images]
        assert (part <= size.slots).all()
        assert size.padded or (part == size.slots).all()
        start += size.images


def test_another_key_draws_other_images(inputs):
    keys, *rest = inputs
    select = jax.jit(strategy_of(0.125, strategy='random'))

    def whole(keys):
        return visible_patches(select(keys, *rest, 0.0), LENGTH).all(axis=1)

    np.testing.assert_array_equal(whole(keys), whole(keys))
    assert (whole(keys) != whole(jax.random.split(jax.random.key(7), BATCH))).any()
    drawn = np.mean([whole(jax.random.split(jax.random.key(s), BATCH)) for s in range(200)], axis=0)
    assert np.abs(drawn - 0.125).max() < 0.1  # every image of a group equally often


@pytest.mark.parametrize('changes', [{}, {'min_ratio': 0.5}])
def test_embeddings_and_gradients_are_those_of_padding(inputs, changes):
    config = quickstart.get_config().model
    config.image.update(width=32, layers=2, heads=2)
    config.text.update(width=32, layers=1, heads=2)
    model = build_model(config, dtype=jnp.float32)
    keys, images, _ = inputs
    params = model.init(jax.random.key(0), images[:1], jnp.ones((1, 24), jnp.int32))['params']
    select = strategy_of(0.125, **changes)

    def loss(params, buckets):
        def chosen(images, embeddings):
            selection = select(keys, images, embeddings, 0.5)
            return selection if buckets else selection.replace(buckets=None)

        def method(self, images):
            return self.image_tower(images, chosen)[0]

        out = model.apply({'params': params}, images, method=method)
        return (out * jnp.arange(float(BATCH))[:, None]).sum(), out

    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, buckets=b), has_aux=True))(params)
        for b in (True, False)
    ]
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(a).max())))


def test_five_per_cent_cost_at_most_seven_of_a_step():
    """PGS-0.5 at ViT-B/16, by the products of forward and backward pass of both towers."""
    config = base.get_config()
    config.masking.min_ratio = 0.5
    model = build_model(config.model, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((32, 224, 224, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((32, 77), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']

    def step(share):
        strategy = keep_some_whole(configured(config.masking, 16), share, 16)

        def loss(params, images, tokens):
            keys = jax.random.split(jax.random.key(0), 32)
            out = model.apply(
                {'params': params}, images, tokens, lambda i, e: strategy(keys, i, e, 0.5)
            )
            return out['image_features'].sum() + out['text_features'].sum()

        return flops_of(jax.grad(loss), params, images, tokens)

    assert 1.0 < step(0.05) / step(0.0) < 1.07


@pytest.mark.parametrize(
    ('share', 'words'),
    [(-0.1, 'from 0 to 1'), (1.5, 'from 0 to 1'), (0.01, 'no image of a group of 16')],
)
def test_a_share_that_cannot_be_is_named(share, words):
    with pytest.raises(UserError, match=rf'masking.whole_share={share} .*{words}'):
        selection_shape(strategy_of(share), 64, 8, batch=BATCH)
