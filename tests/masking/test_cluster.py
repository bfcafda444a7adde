"""The strategy `cluster` against figures of the published code, and the calibration."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from pgs.errors import UserError
from pgs.masking import configured
from pgs.masking.calibration import calibrated_threshold, mean_masked
from pgs.masking.cluster import (
    anchor_count,
    anchor_similarity,
    cluster,
    masked_patches,
    select_visible,
)
from pgs.masking.selection import visible_patches
from pgs.masking.similarity import patch_similarity
from pgs.models import normalize_images

DATA = Path(__file__).parents[1] / 'data'
PHOTOS = np.load(DATA / 'patch_similarity.npz')
KEPT = np.load(DATA / 'cluster_kept.npz')
LENGTH = 196


@functools.cache
def published(epoch):
    """Similarity of the two photographs, and the anchors that the published code drew."""
    images = normalize_images(PHOTOS['images'])
    similarity = patch_similarity(images, PHOTOS['tokens'][:, 1:], epoch / 32, patch_size=16)
    # It masks 5 % of the patches first, those with the largest noise.
    anchors = np.argsort(-KEPT['noise_generate'], axis=1)[:, : anchor_count(LENGTH, 0.05)]
    return similarity, anchors


@functools.cache
def jitted(**options):
    return jax.jit(functools.partial(cluster, patch_size=16, **options))


@pytest.mark.parametrize('min_ratio', ['0.3', '0.5'])
@pytest.mark.parametrize('epoch', [0, 16])
def test_agrees_with_the_published_masks(epoch, min_ratio):
    similarity, anchors = published(epoch)
    masked = masked_patches(similarity, anchors, 0.5)
    fewest = {'0.3': 59, '0.5': 98}[min_ratio]
    noise = jax.random.uniform(jax.random.key(0), masked.shape)
    visible = visible_patches(select_visible(masked, anchors, noise, fewest), LENGTH)
    for own, ours, theirs, ratio in zip(
        np.asarray(masked),
        visible,
        KEPT[f'kept_ep{epoch}_min{min_ratio}'],
        KEPT[f'ratio_ep{epoch}_min{min_ratio}'],
        strict=True,
    ):
        assert (~ours).sum() == pytest.approx(ratio * LENGTH, abs=1e-3)
        if own.sum() >= (~theirs).sum():
            # The published code keeps as many patches of each image of a batch. Masked ones among
            # them are its padding.
            np.testing.assert_array_equal(ours, theirs & ~own)
            np.testing.assert_array_equal(ours, ~own)
        else:  # which visible patches go is random
            assert ours.sum() == theirs.sum()
            assert not (ours & own).any()
            assert not (theirs & own).any()


def test_the_published_mask_is_equal_where_its_batch_has_no_padding():
    masked = np.asarray(masked_patches(*published(0), 0.5))
    np.testing.assert_array_equal(masked[0], ~KEPT['kept_ep0_min0.3'][0])
    assert masked[0].sum() == 107


def test_masked_patches_by_hand():
    similarity = jnp.array([[[1, 0.5, 0.6], [0.5, 1, -1], [0.6, -1, 1]]])
    for anchors, threshold, expected in (
        ([0], 0.5, [True, False, True]),  # equal to the threshold is not above it
        ([1], 0.5, [False, True, False]),
        ([1, 2], 0.5, [True, True, True]),
        ([1], 1.0, [False, True, False]),  # an anchor, although its cosine is not above 1
    ):
        masked = masked_patches(similarity, jnp.array([anchors]), threshold)
        np.testing.assert_array_equal(masked[0], expected)


@pytest.mark.parametrize(
    ('length', 'ratio', 'expected'),
    [(196, 0.03, 6), (196, 0.05, 10), (64, 0.03, 2), (16, 0.03, 1), (100, 0.07, 7), (16, 0.0, 1)],
)
def test_anchors_are_rounded_up(length, ratio, expected):
    assert anchor_count(length, ratio) == expected


@pytest.mark.parametrize(('min_ratio', 'fewest'), [(0.3, 59), (0.5, 98), (0.0, 0)])
@pytest.mark.parametrize('progress', [0.0, 0.5, 1.0])
def test_counts_and_shapes(normalized_photos, embeddings, min_ratio, fewest, progress):
    for seed in range(3):
        selection = jitted(min_ratio=min_ratio)(
            jax.random.key(seed), normalized_photos, embeddings, progress
        )
        keep, valid = np.asarray(selection.keep_ids), np.asarray(selection.valid)
        assert keep.shape == valid.shape == (5, LENGTH - fewest)
        assert keep.dtype == np.int32
        assert (np.diff(keep, axis=1) > 0).all()
        assert valid.any(axis=1).all()
        assert selection.buckets is None
        assert selection.masked_range(LENGTH) == (fewest, LENGTH - 1)


def test_what_is_kept_does_not_resemble_what_is_masked(normalized_photos, embeddings):
    """The mask is the anchors' clusters, where these are large enough, and never less."""
    progress = 0.6
    similarity = np.asarray(
        patch_similarity(normalized_photos, embeddings, progress, patch_size=16)
    )
    visible = visible_patches(
        jitted()(jax.random.key(0), normalized_photos, embeddings, progress), LENGTH
    )
    counts = (~visible).sum(axis=1)
    assert len(set(counts)) > 1
    assert counts.min() == 59  # some are filled up at random
    for image in np.flatnonzero(counts > 59):
        # Every masked patch resembles an anchor, so that it has a masked neighbour or is an anchor.
        resembles = (similarity[image] > 0.5) & ~np.eye(LENGTH, dtype=bool)
        lonely = ~visible[image] & ~(resembles & ~visible[image]).any(axis=1)
        assert lonely.sum() <= anchor_count(LENGTH, 0.03)


def test_a_low_threshold_masks_all_but_one(normalized_photos, embeddings):
    selection = jitted(cluster_threshold=-1.0)(
        jax.random.key(0), normalized_photos, embeddings, 0.0
    )
    assert (visible_patches(selection, LENGTH).sum(axis=1) == 1).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_images_that_could_break_it(dtype):
    black = np.zeros((64, 64, 3), np.float32)
    pixel = black.copy()
    pixel[9, 9] = 1.0
    images = jnp.asarray(np.stack([black, black + 0.3, pixel, black - 1e3]), dtype)
    selection = jitted()(jax.random.key(0), images, jnp.zeros((4, 16, 8), dtype), 0.0)
    visible = visible_patches(selection, 16)
    # Flat patches are one cluster, and one patch stays.
    np.testing.assert_array_equal(visible.sum(axis=1)[[0, 1, 3]], 1)
    assert visible[2].sum() >= 1


def test_same_key_same_mask_other_key_other_mask(normalized_photos, embeddings):
    first, again, other = (
        visible_patches(jitted()(jax.random.key(k), normalized_photos, embeddings, 0.0), LENGTH)
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()


def test_an_image_depends_on_its_own_key_only(normalized_photos, embeddings):
    keys = jax.random.split(jax.random.key(0), 5)
    together = visible_patches(jitted()(keys, normalized_photos, embeddings, 0.0), LENGTH)
    apart = jitted()(keys[3:4], normalized_photos[3:4], embeddings[3:4], 0.0)
    np.testing.assert_array_equal(visible_patches(apart, LENGTH)[0], together[3])


def test_no_gradient_flows_through_it(normalized_photos, embeddings):
    def score(tokens):
        selection = cluster(jax.random.key(0), normalized_photos, tokens, 0.5, patch_size=16)
        return jnp.where(selection.valid[:, :, None], tokens[:, :137], 0.0).sum()

    gradient = jax.grad(score)(embeddings)
    assert set(np.unique(gradient)) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'anchor_ratio': 1.0}, 'masking.anchor_ratio=1.0 is not a fraction'),
        ({'anchor_ratio': -0.1}, 'masking.anchor_ratio=-0.1 is not a fraction'),
        ({'anchor_ratio': 0.999}, 'masking.anchor_ratio=0.999 leaves none of 196'),
        ({'cluster_threshold': 1.5}, 'masking.cluster_threshold=1.5 is not a cosine'),
        ({'cluster_threshold': -1.5}, 'masking.cluster_threshold=-1.5 is not a cosine'),
        ({'min_ratio': 1.0}, 'masking.min_ratio=1.0 is not a fraction'),
        ({'min_ratio': 0.999}, 'masking.min_ratio=0.999 leaves none of 196'),
    ],
)
def test_bad_options_are_named(changes, words, normalized_photos, embeddings):
    masking = base.get_config().masking.to_dict() | {'strategy': 'cluster'} | changes
    with pytest.raises(UserError, match=words):
        configured(masking, 16)(jax.random.key(0), normalized_photos, embeddings, 0.0)


@pytest.fixture(scope='module')
def calibration_images(normalized_photos):
    """Similarities of 40 photograph crops, anchors, and each patch's similarity to the nearest."""
    crops = np.concatenate(
        [normalized_photos[:, y : y + 112, x : x + 112] for y in (0, 112) for x in (0, 112)]
    )
    crops = np.concatenate([crops, crops[:, ::-1] * 0.7 + 0.1])
    noise = np.random.default_rng(0).normal(size=(40, 196, 32)).astype(np.float32)
    similarity = patch_similarity(crops, noise, 0.2, patch_size=8)
    anchors = np.stack([np.random.default_rng(i).permutation(196)[:6] for i in range(40)])
    return similarity, anchors, anchor_similarity(similarity, anchors)


@pytest.mark.parametrize('min_ratio', [0.0, 0.3])
@pytest.mark.parametrize('target', [0.35, 0.5, 0.65])
def test_calibration_reaches_its_target(calibration_images, target, min_ratio):
    threshold = calibrated_threshold(calibration_images[2], target, min_ratio)
    assert 0.0 <= threshold <= 1.0
    reached, below, above = (
        mean_masked(calibration_images[2], t, min_ratio)
        for t in (threshold, threshold + 2**-20, threshold - 2**-20)
    )
    assert abs(reached - target) <= 1e-3 or below <= target <= above


def test_calibration_of_few_images_brackets_its_target(calibration_images):
    """Two images can be masked to steps of 1 / 392 only."""
    few = calibration_images[2][:2]
    target = 0.5 + 1 / 800
    threshold = calibrated_threshold(few, target, 0.0)
    below, above = (mean_masked(few, t, 0.0) for t in (threshold + 2**-20, threshold - 2**-20))
    assert below <= target <= above


def test_mean_masked_by_hand_and_monotonic(calibration_images):
    counts = np.asarray(masked_patches(*calibration_images[:2], 0.5)).sum(axis=1)
    expected = np.maximum(counts, 59).mean() / 196
    assert mean_masked(calibration_images[2], 0.5, 0.3) == pytest.approx(expected, abs=1e-6)
    curve = [mean_masked(calibration_images[2], t, 0.3) for t in np.linspace(0, 1, 21)]
    assert (np.diff(curve) <= 0).all()
    assert curve[-1] == pytest.approx(59 / 196, abs=1e-6)


@pytest.mark.parametrize(
    ('target', 'min_ratio', 'words'),
    [
        (0.3, 0.3, 'cluster_target=0.3, a .* must be above masking.min_ratio=0.3'),
        (0.2, 0.3, 'cluster_target=0.2, .* must be above masking.min_ratio=0.3'),
        (0.3005, 0.3, r'0.3005, .* must be above masking.min_ratio=0.3 \(59 of 196 patches\)'),
        (1.0, 0.3, 'cluster_target=1.0, .* must be above .* below 1'),
        (float('nan'), 0.3, 'cluster_target=nan, .* must be'),
        (0.999, 0.3, 'no masking.cluster_threshold from 0 to 1 .* 0.999 .*: on these 40 images'),
        (0.02, 0.0, 'no masking.cluster_threshold from 0 to 1 .* 0.02 .*: on these 40 images'),
        (0.5, 1.0, 'masking.min_ratio=1.0'),
    ],
)
def test_targets_that_cannot_be_reached_are_refused(calibration_images, target, min_ratio, words):
    with pytest.raises(UserError, match=words):
        calibrated_threshold(calibration_images[2], target, min_ratio)
