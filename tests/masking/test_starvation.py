"""How often each patch is seen over a run, on strategies whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from pgs.masking import PatchSelection, configured
from pgs.masking.starvation import RARELY, seen_share, starved_share


def share(strategy, images=3, patches=16, draws=40, seed=0):
    compiled = jax.jit(functools.partial(seen_share, strategy, draws=draws, seed=seed))
    return np.asarray(compiled(jnp.zeros((images, 32, 32, 3)), jnp.zeros((images, patches, 4))))


def strategy_of(name):
    return configured(dict(base.get_config().masking) | {'strategy': name}, 8)


def test_a_fixed_mask_starves_what_it_hides():
    def first_half(rng, images, embeddings, progress):
        return PatchSelection(jnp.broadcast_to(jnp.arange(8), (3, 8)))

    seen = share(first_half)
    np.testing.assert_array_equal(seen, np.tile([1.0] * 8 + [0.0] * 8, (3, 1)))
    assert starved_share(seen) == 0.5


def test_padding_is_not_seen():
    def padded(rng, images, embeddings, progress):
        keep = jnp.broadcast_to(jnp.arange(8), (3, 8))
        return PatchSelection(keep, keep < jnp.array([2, 4, 8])[:, None])

    np.testing.assert_array_equal(share(padded).sum(axis=1), [2, 4, 8])


def test_progress_goes_from_0_to_1():
    def by_progress(rng, images, embeddings, progress):
        kept = jnp.where(progress == 0.0, 0, jnp.where(progress < 1.0, 1, 2))
        return PatchSelection(jnp.broadcast_to(kept, (3, 1)))

    seen = share(by_progress, draws=41)
    np.testing.assert_allclose(seen[:, :3], np.tile([1 / 41, 39 / 41, 1 / 41], (3, 1)), rtol=1e-6)
    assert (share(by_progress, draws=1)[:, 0] == 1.0).all()


def test_random_masks_starve_nothing_and_every_image_has_its_own_keys():
    seen = share(strategy_of('random'), draws=200)
    np.testing.assert_allclose(seen.mean(axis=1), 0.5)
    assert np.abs(seen - 0.5).max() < 0.15
    assert starved_share(seen) == 0.0
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen, share(strategy_of('random'), draws=200))
    assert (seen != share(strategy_of('random'), draws=200, seed=1)).any()


def test_none_shows_everything():
    assert (share(strategy_of('none')) == 1.0).all()


@pytest.mark.parametrize(('seen', 'expected'), [([0.0, 0.04, 0.05, 1.0], 0.5), ([0.2], 0.0)])
def test_a_patch_is_starved_below_the_limit(seen, expected):
    assert RARELY == 0.05
    assert starved_share(np.array([seen], np.float32)) == expected


def test_pgs_starves_patches_of_photographs_and_fewer_with_noise(normalized_photos, embeddings):
    def starved(**options):
        strategy = configured(dict(base.get_config().masking) | options, 16)
        compiled = jax.jit(functools.partial(seen_share, strategy, draws=40, seed=0))
        seen = np.asarray(compiled(normalized_photos, embeddings))
        assert seen.shape == (5, 196)
        assert ((seen.mean(axis=1) >= 0.5) & (seen.mean(axis=1) <= 0.7)).all()
        return starved_share(seen)

    assert starved() > 0.02
    assert starved(selection_noise=1.0) < 0.5 * starved()
