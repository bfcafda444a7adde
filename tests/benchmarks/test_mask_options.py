"""The edge maps and the measures of benchmarks.mask_options, on small inputs."""

import jax.numpy as jnp
import numpy as np
import pytest
from programs import load_benchmark as load

from configs.study import OPTION_TRIALS
from pgs.masking.strategies import all_options_of, find_strategy

trials = load('mask_options')


def test_entropy_of_patches_by_hand():
    """Flat: 0. Two levels, one half each: log 2, of which the image's largest entropy makes 1."""
    image = np.zeros((1, 8, 16, 3), np.float32)
    image[:, :4, 8:] = 1.0
    np.testing.assert_allclose(
        trials.entropy_scores(jnp.asarray(image), 8), [[0.0, 1.0]], atol=1e-5
    )


def test_two_scales_are_scores_of_each_patch():
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3)), jnp.float32)
    scores = np.asarray(trials.two_scale_scores(images, 8))
    assert scores.shape == (2, 16)
    assert (scores >= 0.0).all()
    assert (scores <= 1.0).all()


def test_measures_of_masks_that_are_known():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((3, 64, 64, 3)), jnp.float32)
    objects = trials.Objects(images, rng.random((3, 16)) < 0.5)
    assert trials.measure(objects, 'none', {}, 3) == {
        'kept': 1.0,
        'starved': 0.0,
        'starved objects': 0.0,
    }
    half = trials.measure(objects, 'random', {'mask_ratio': 0.5}, 200)
    assert half['kept'] == pytest.approx(0.5, abs=0.05)
    assert half['starved'] == 0.0


def test_each_trial_has_options_of_its_strategy():
    for name, options in OPTION_TRIALS:
        assert set(options) <= set(all_options_of(find_strategy(name)))


def test_images_of_choice_and_confirmation_differ():
    (emoji, photos), (other_emoji, other_photos) = trials.SETS.values()
    assert not set(range(999)[emoji]) & set(range(999)[other_emoji])
    assert not set(range(5)[photos]) & set(range(5)[other_photos])
