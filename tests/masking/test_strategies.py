"""The strategies: what they promise about counts, randomness, precision and shapes."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from pgs.errors import UserError
from pgs.masking import configured, known_strategies
from pgs.masking.pgs import pgs_steps
from pgs.masking.selection import mask_ratio, visible_patches

LENGTH = 196


@functools.cache
def jitted(name, **options):
    return jax.jit(functools.partial(known_strategies()[name], patch_size=16, **options))


def check_selection(selection, length, fewest, most):
    """Ascending distinct positions, static width, masked count of each image within bounds."""
    keep = np.asarray(selection.keep_ids)
    assert keep.dtype == np.int32
    assert keep.shape[1] == length - fewest
    assert (np.diff(keep, axis=1) > 0).all()
    assert keep.min() >= 0
    assert keep.max() < length
    masked = length - visible_patches(selection, length).sum(axis=1)
    assert (masked >= fewest).all()
    assert (masked <= most).all()
    if fewest == most:
        assert selection.valid is None
    else:
        assert selection.valid.shape == keep.shape
        assert selection.valid.dtype == bool


@pytest.mark.parametrize(
    ('low', 'high', 'fewest', 'most'),
    [(0.3, 0.5, 59, 98), (0.5, 0.5, 98, 98), (0.0, 0.9, 0, 176), (0.2, 0.21, 40, 41), (0, 0, 0, 0)],
)
@pytest.mark.parametrize('progress', [0.0, 0.5, 1.0])
def test_masked_fraction_stays_in_bounds(
    normalized_photos, embeddings, low, high, fewest, most, progress
):
    select = jitted('pgs', min_ratio=low, max_ratio=high)
    for seed in range(5):
        selection = select(jax.random.key(seed), normalized_photos, embeddings, progress)
        check_selection(selection, LENGTH, fewest, most)
        ratio = np.asarray(mask_ratio(selection, LENGTH))
        assert (ratio >= low - 1e-6).all()
        assert (ratio <= high + 1e-6).all()


@pytest.mark.parametrize('options', [{'use_edges': False}, {'use_transport': False}, {}])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_images_that_could_break_it(options, dtype):
    black = np.zeros((64, 64, 3), np.float32)
    pixel = black.copy()
    pixel[9, 9] = 1.0
    images = jnp.asarray(np.stack([black, black + 0.3, pixel, black - 1e3]), dtype)
    for name in ('pgs', 'random'):
        kwargs = options if name == 'pgs' else {}
        selection = jitted(name, **kwargs)(
            jax.random.key(0), images, jnp.zeros((4, 16, 8), dtype), 0.0
        )
        low = 5 if name == 'pgs' else 8
        check_selection(selection, 16, low, 8)


def test_all_intermediates_are_finite(normalized_photos, embeddings):
    for options in ({}, {'use_transport': False}, {'epsilon': 0.01}, {'epsilon': 1.0}):
        steps = pgs_steps(
            jax.random.key(0), normalized_photos, embeddings, 0.3, patch_size=16, **options
        )
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(steps))


@pytest.mark.parametrize('name', ['random', 'pgs'])
def test_same_key_same_mask_other_key_other_mask(normalized_photos, embeddings, name):
    select = jitted(name)
    first, again, other = (
        visible_patches(select(jax.random.key(k), normalized_photos, embeddings, 0.0), LENGTH)
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()


def test_float32_and_float64_masks_agree(normalized_photos, embeddings):
    """The published code's masks differ between the two in up to half of the patches."""
    options = {'patch_size': 16, 'min_ratio': 0.3, 'max_ratio': 0.5}
    single = jax.jit(functools.partial(known_strategies()['pgs'], **options))
    for progress in (0.0, 0.5, 1.0):
        narrow = visible_patches(
            single(jax.random.key(3), normalized_photos, embeddings, progress), LENGTH
        )
        with jax.enable_x64(True):
            steps = jax.jit(functools.partial(pgs_steps, **options))(
                jax.random.key(3),
                normalized_photos.astype(np.float64),
                embeddings.astype(np.float64),
                progress,
            )
            assert steps.affinity_BxL.dtype == jnp.float64
            wide = visible_patches(steps.selection, LENGTH)
        assert (narrow == wide).mean() >= 0.99


def test_candidates_go_first_and_are_not_edges(normalized_photos, embeddings):
    steps = jax.jit(functools.partial(pgs_steps, patch_size=16))(
        jax.random.key(0), normalized_photos, embeddings, 0.0
    )
    candidates = np.asarray(steps.candidates_BxC)
    assert candidates.shape == (5, 10)  # round(0.05 * 196)
    visible = visible_patches(steps.selection, LENGTH)
    edges = np.asarray(steps.edges_BxL)
    for image in range(5):
        assert len(set(candidates[image])) == 10
        assert not visible[image, candidates[image]].any()
        assert edges[image, candidates[image]].mean() < edges[image].mean()


def test_masks_what_is_alike_and_keeps_edges(normalized_photos, embeddings):
    steps = jax.jit(functools.partial(pgs_steps, patch_size=16))(
        jax.random.key(0), normalized_photos, embeddings, 0.0
    )
    visible = visible_patches(steps.selection, LENGTH)
    edges, affinity = np.asarray(steps.edges_BxL), np.asarray(steps.affinity_BxL)
    assert edges[visible].mean() > edges[~visible].mean() + 0.1
    assert affinity[visible].mean() < affinity[~visible].mean()
    alike = np.clip((affinity > 1.0).sum(axis=1), 59, 98)
    np.testing.assert_array_equal(steps.masked_B, alike)
    np.testing.assert_array_equal((~visible).sum(axis=1), alike)


def test_edges_off_is_edge_weight_zero(normalized_photos, embeddings):
    args = (jax.random.key(0), normalized_photos, embeddings, 0.0)
    off = jitted('pgs', use_edges=False)(*args)
    zero = jitted('pgs', edge_weight=0.0)(*args)
    np.testing.assert_array_equal(off.keep_ids, zero.keep_ids)


def test_transport_changes_the_mask(normalized_photos, embeddings):
    args = (jax.random.key(0), normalized_photos, embeddings, 0.0)
    on = visible_patches(jitted('pgs', min_ratio=0.5)(*args), LENGTH)
    off = visible_patches(jitted('pgs', min_ratio=0.5, use_transport=False)(*args), LENGTH)
    assert (on != off).any()


def test_selection_noise_changes_which_patches_are_masked_and_not_how_many(
    normalized_photos, embeddings
):
    args = (jax.random.key(0), normalized_photos, embeddings, 0.0)
    plain, noisy = (
        jax.jit(functools.partial(pgs_steps, patch_size=16, selection_noise=scale))(*args)
        for scale in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain.candidates_BxC, noisy.candidates_BxC)
    np.testing.assert_array_equal(plain.masked_B, noisy.masked_B)
    seen, noisy_seen = (visible_patches(s.selection, LENGTH) for s in (plain, noisy))
    assert (seen != noisy_seen).any(axis=1).all()
    assert (seen == noisy_seen).mean() > 0.6
    candidates = np.asarray(noisy.candidates_BxC)
    assert not np.take_along_axis(noisy_seen, candidates, axis=1).any()
    # An image's noise depends on its own key only, as its candidates do.
    keys = jax.random.split(args[0], 5)
    alone = jitted('pgs', selection_noise=1.0, long_share=1.0)
    every = visible_patches(alone(keys, *args[1:]), LENGTH)
    one = visible_patches(alone(keys[3:4], *(a[3:4] for a in args[1:3]), 0.0), LENGTH)
    np.testing.assert_array_equal(every[3:4], one)


@pytest.mark.parametrize('fixed', [0.0, 1.0])
def test_a_fixed_progress_replaces_that_of_the_run(normalized_photos, embeddings, fixed):
    def visible(progress, **options):
        args = (jax.random.key(0), normalized_photos, embeddings, progress)
        return visible_patches(jitted('pgs', **options)(*args), LENGTH)

    for progress in (0.0, 0.5, 1.0):
        np.testing.assert_array_equal(visible(progress, fixed_progress=fixed), visible(fixed))
    assert (visible(0.0) != visible(1.0)).any()


def test_no_gradient_flows_through_a_selection(normalized_photos, embeddings):
    def score(tokens):
        steps = pgs_steps(jax.random.key(0), normalized_photos, tokens, 0.5, patch_size=16)
        return steps.affinity_BxL.sum() + steps.edges_BxL.sum()

    assert float(jnp.abs(jax.grad(score)(embeddings)).max()) == 0.0


def test_random_masks_each_patch_equally_often():
    select = jitted('random', mask_ratio=0.25)
    images, tokens = jnp.zeros((500, 64, 64, 3)), jnp.zeros((500, 16, 4))
    visible = visible_patches(select(jax.random.key(0), images, tokens, 0.0), 16)
    assert (visible.sum(axis=1) == 12).all()
    assert np.abs(visible.mean(axis=0) - 0.75).max() < 0.08


def test_none_keeps_all(normalized_photos, embeddings):
    selection = jitted('none')(jax.random.key(0), normalized_photos, embeddings, 0.0)
    check_selection(selection, LENGTH, 0, 0)


def test_config_and_signature_have_the_same_defaults():
    masking = base.get_config().masking
    for strategy in known_strategies().values():
        for parameter in inspect.signature(strategy).parameters.values():
            name = parameter.name
            if parameter.kind is parameter.KEYWORD_ONLY and name not in ('patch_size', 'attention'):
                named = masking.get(name, parameter.default)  # one of your own need not be
                assert named == parameter.default, name


def test_one_compilation_for_many_steps(normalized_photos, embeddings):
    select = jax.jit(configured(base.get_config().masking, 16))
    for step in range(5):
        rng = jax.random.fold_in(jax.random.key(0), step)
        select(rng, normalized_photos, embeddings, jnp.float32(step / 5))
    assert select._cache_size() == 1


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'strategy': 'pqs'}, ["'pqs'", "'pgs'"]),
        ({'min_ratio': 0.6}, ['min_ratio=0.6', 'max_ratio=0.5']),
        ({'min_ratio': -0.1}, ['min_ratio=-0.1']),
        ({'max_ratio': 1.0}, ['max_ratio=1.0']),
        ({'candidate_ratio': 1.5}, ['candidate_ratio=1.5']),
        ({'epsilon': 0.0}, ['epsilon=0.0']),
        ({'threshold': 0.0}, ['threshold=0.0']),
        ({'min_ratio': 0.999, 'max_ratio': 0.999}, ['leaves none']),
        ({'strategy': 'random', 'mask_ratio': 1.0}, ['mask_ratio=1.0']),
        ({'selection_noise': -0.1}, ['selection_noise=-0.1', 'at least 0']),
        ({'edge_detector': 'prewitt'}, ["edge_detector='prewitt'", 'sobel, canny']),
        ({'fixed_progress': 1.5}, ['fixed_progress=1.5', 'from 0 to 1; -1 follows the run']),
        ({'fixed_progress': -0.5}, ['fixed_progress=-0.5']),
    ],
)
def test_bad_options_are_named(changes, words, normalized_photos, embeddings):
    masking = base.get_config().masking.to_dict() | changes
    with pytest.raises(UserError) as error:
        configured(masking, 16)(jax.random.key(0), normalized_photos, embeddings, 0.0)
    assert all(word in str(error.value) for word in words)
