"""The token budget: what it saves, that embeddings stay as they are, and who pays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, quickstart
from pgs.masking import budget
from pgs.masking.pgs import pgs_steps
from pgs.masking.selection import PatchSelection
from pgs.masking.strategies import configured, selection_shape
from pgs.models import CLIP, build_model

LENGTH = 16  # patches of the model below


def two_buckets(*, group, short, slots, long_slots):
    return budget.Buckets(
        group, (budget.Bucket(short, slots, False), budget.Bucket(group - short, long_slots, True))
    )


def selection_of(counts, buckets):
    """Random patches of each image, as many as `counts` says, in slots of the largest count."""
    rng = np.random.default_rng(0)
    slots = max(counts)
    keep, valid = [], []
    for count in counts:
        ids = np.sort(rng.permutation(LENGTH)[:slots])
        real = np.zeros(slots, bool)
        real[rng.permutation(slots)[:count]] = True  # invalid slots lie anywhere
        keep.append(ids)
        valid.append(real)
    return PatchSelection(jnp.array(keep, jnp.int32), jnp.array(valid), buckets)


@pytest.fixture(scope='module')
def model_and_params():
    config = quickstart.get_config().model
    config.image.update(image_size=32, patch_size=8, width=32, layers=2, heads=2)
    config.text.update(width=32, layers=1, heads=2)
    model = build_model(config, dtype=jnp.float32)
    images = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    tokens = jnp.ones((8, 24), jnp.int32)
    return model, model.init(jax.random.key(0), images, tokens)['params'], images


@pytest.mark.parametrize(
    'counts', [[8, 12, 8, 9, 8, 8, 11, 12], [8, 8, 8, 8, 10, 10, 10, 12], [12, 8, 12, 8] * 2]
)
def test_buckets_give_the_embeddings_and_gradients_of_padding(model_and_params, counts):
    model, params, images = model_and_params
    buckets = two_buckets(group=4, short=2, slots=8, long_slots=12)
    if counts[:4] == [8, 8, 8, 8]:
        buckets = two_buckets(group=8, short=4, slots=8, long_slots=12)
    results = []
    for sizes in (None, buckets):
        selection = selection_of(counts, sizes)

        def embed(params, images, selection=selection):
            def method(self, images):
                return self.image_tower(images, lambda *_: selection)[0]

            return model.apply({'params': params}, images, method=method)

        def loss(params, images, embed=embed):
            return (embed(params, images) * jnp.arange(8.0)[:, None]).sum()

        results.append((embed(params, images), jax.grad(loss, argnums=(0, 1))(params, images)))
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(a).max())))


def test_over_budget_the_nearly_full_masks_become_full():
    buckets = two_buckets(group=4, short=2, slots=8, long_slots=12)
    masked = jnp.array([4, 5, 7, 6, 8, 8, 8, 4])
    np.testing.assert_array_equal(
        budget.apply_budget(masked, 8, buckets), [4, 5, 8, 8, 8, 8, 8, 4]
    )  # the first group wanted four long slots and has two; the second is within its budget


@pytest.mark.parametrize(
    ('batch', 'group', 'share', 'expected'),
    [
        (64, 16, 0.5, (16, 8)),
        (24, 16, 0.5, (8, 4)),  # as large as divides both
        (64, 16, 0.3, (16, 11)),
        (64, 16, 1.0, None),
        (3, 16, 0.5, None),  # one image to a group: all slots
        (64, 16, 0.0, (16, 16)),
    ],
)
def test_bucket_sizes(batch, group, share, expected):
    found = budget.bucket_sizes(batch, group, share, short_slots=8, long_slots=12)
    assert (found and (found.group, found.sizes[0].images)) == expected
    assert found is None or sum(size.images for size in found.sizes) == found.group


def test_pgs_keeps_within_its_bounds_and_its_budget(normalized_photos):
    images = jnp.tile(normalized_photos, (4, 1, 1, 1))[:16]
    embeddings = jax.random.normal(jax.random.key(0), (16, 196, 8))
    # Arguments, and not constants that XLA would compute with for half a minute.
    steps = jax.jit(functools.partial(pgs_steps, patch_size=16))(
        jax.random.key(0), images, embeddings, 0.0
    )
    masked, wanted = np.asarray(steps.masked_B), np.asarray(steps.wanted_B)
    assert (masked == 98).sum() >= 8
    assert ((masked >= wanted) & (masked <= 98) & (wanted >= 59)).all()
    assert len(set(wanted)) > 1  # these photographs do ask for different masks
    np.testing.assert_array_equal(196 - steps.selection.valid.sum(axis=1), masked)


def test_what_the_tower_runs_on():
    masking = base.get_config().masking
    shape = selection_shape(configured(masking, 16), 224, 16, batch=32)
    assert shape.mean_slots() == (98 + 137) / 2
    masking.long_share = 1.0
    assert selection_shape(configured(masking, 16), 224, 16, batch=32).mean_slots() == 137
    masking.update(min_ratio=0.5)
    assert selection_shape(configured(masking, 16), 224, 16, batch=32).mean_slots() == 98


def test_select_patches_carries_the_buckets_through_jit(model_and_params):
    model, params, images = model_and_params
    selection = selection_of([8, 12] * 4, two_buckets(group=4, short=2, slots=8, long_slots=12))
    apply = jax.jit(
        lambda p: model.apply(
            {'params': p}, images, lambda *_: selection, method=CLIP.select_patches
        )
    )
    assert apply(params).buckets == selection.buckets
