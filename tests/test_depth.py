"""What is frozen, and rates that fall with depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import shrunk_quickstart
from flax.traverse_util import flatten_dict

from configs import base
from pgs import sharding
from pgs.build import build, check_config
from pgs.compile.flops import flops_of
from pgs.depth import frozen_count, rate_factors
from pgs.errors import UserError
from pgs.optimizer import build_optimizer
from pgs.step import init_state, lower_train_step, make_init

BLOCK = 'transformer/blocks/fc/kernel'


def shapes(config):
    job = build(config, total_steps=6, platform='cpu')
    return jax.eval_shape(make_init(job.model, job.optimizer, 0)).params


def factors(**options):
    config = shrunk_quickstart(total_steps=6)
    config.optimizer.update(options)
    params = shapes(config)
    found = flatten_dict(rate_factors(config.optimizer, params), sep='/')
    sizes = flatten_dict(params, sep='/')
    assert all(
        np.broadcast_shapes(f.shape, sizes[p].shape) == sizes[p].shape for p, f in found.items()
    )
    return found


def test_rates_fall_towards_the_input():
    """BEiT's rule for a tower of two layers: decay ** (3 - depth), the embeddings at depth 0."""
    found = factors(layer_decay=0.5)
    for tower, embedding in (('image_tower', 'positions'), ('text_tower', 'token_embedding')):
        assert found[f'{tower}/{embedding}'] == 0.125
        np.testing.assert_array_equal(found[f'{tower}/{BLOCK}'].ravel(), [0.25, 0.5])
        assert found[f'{tower}/projection'] == 1.0
    for name in ('image_tower/patch_embedding/kernel', 'image_tower/ln_pre/bias'):
        assert found[name] == 0.125
    assert found['text_tower/ln_final/scale'] == found['image_tower/ln_post/bias'] == 1.0
    assert found['logit_scale'] == 1.0


def test_a_frozen_tower_has_no_rate_and_the_other_its_own():
    found = factors(frozen=('text',))
    config = shrunk_quickstart(total_steps=6)
    config.optimizer.frozen = ('text',)
    params = shapes(config)
    text = sum(p.size for p in jax.tree.leaves(params['text_tower']))
    assert frozen_count(config.optimizer, params) == text
    assert {p for p, f in found.items() if not f.any()} == {p for p in found if p[:4] == 'text'}
    assert all((f == 1.0).all() for p, f in found.items() if p[:4] != 'text')


def test_frozen_layers_are_the_first_ones_with_the_embeddings():
    found = factors(frozen_image_layers=1)
    np.testing.assert_array_equal(found[f'image_tower/{BLOCK}'].ravel(), [0.0, 1.0])
    assert {p for p, f in found.items() if not f.any()} == {
        f'image_tower/{name}'
        for name in (
            'patch_embedding/kernel',
            'class_token',
            'positions',
            'ln_pre/scale',
            'ln_pre/bias',
        )
    }
    everything = factors(frozen_text_layers=2)  # all blocks: what follows them is trained
    assert {p for p, f in everything.items() if p[:4] == 'text' and f.any()} == {
        f'text_tower/{name}' for name in ('ln_final/scale', 'ln_final/bias', 'projection')
    }


def test_frozen_arrays_have_no_moments():
    config = shrunk_quickstart(total_steps=6)
    config.optimizer.frozen = ('text',)
    state = jax.eval_shape(build_optimizer(config.optimizer, 1e-3).init, shapes(config))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state)]
    assert any('image_tower' in p for p in paths)
    assert not any('text_tower' in p for p in paths)


def test_the_backward_pass_of_a_frozen_tower_is_not_part_of_the_step():
    """Products of the step: forward 1, backward 2, so that a frozen tower saves two of its three."""

    def flops(**options):
        config = shrunk_quickstart(total_steps=6)
        config.model.remat = 'none'
        config.masking.budget_group = 4
        config.optimizer.update(options)
        job = build(config, total_steps=6, platform='cpu')
        state = jax.eval_shape(make_init(job.model, job.optimizer, 0))
        batch = {
            'images': np.zeros((16, 32, 32, 3), np.uint8),
            'tokens': np.ones((16, 24), np.int32),
        }
        return flops_of(job.train_step, state, batch)

    plain, no_text, no_image = flops(), flops(frozen=('text',)), flops(frozen=('image',))
    # What both savings leave is one forward pass of each tower, and the loss.
    assert no_text < 0.8 * plain
    assert no_image < 0.8 * plain
    assert no_text + no_image - plain < 0.45 * plain
    # All layers are one loop: only the gradient of the patch embedding is saved.
    assert flops(frozen_image_layers=1) == pytest.approx(plain, rel=0.05)
    assert flops(frozen_image_layers=2) < 0.8 * plain


def test_impossible_freezing_is_refused():
    for options, words in (
        ({'frozen': ('image', 'text')}, 'leaves nothing but the logit scale to train: name one'),
        (
            {'frozen_image_layers': 13},
            'is more than the 12 layers of the image tower: take at most 12',
        ),
    ):
        config = base.get_config()
        config.optimizer.update(options)
        with pytest.raises(UserError, match=words):
            check_config(config, devices=1, platform='cpu')


@pytest.fixture(scope='module')
def tuned():
    """(config, states of two steps) with everything of this page on, two microbatches, fsdp 2."""
    config = shrunk_quickstart(total_steps=6)
    config.update(microbatches=2, weights_ema=0.75)
    config.masking.budget_group = 4
    config.model.image.width = 64  # large enough to be sharded
    config.optimizer.update(
        frozen=('text',),
        frozen_image_layers=1,
        layer_decay=0.5,
        clip_norm=0.1,
        schedule='wsd',
        warmup_steps=1,
    )
    check_config(config, devices=2, platform='cpu')
    mesh = sharding.make_mesh({'data': 1, 'fsdp': 2}, 16, jax.devices()[:2])
    job = build(config, total_steps=6, platform='cpu')
    state = init_state(job.model, job.optimizer, 0, mesh, averaged=True)
    rng = np.random.default_rng(0)
    batch = sharding.to_devices(
        mesh,
        {
            'images': rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8),
            'tokens': rng.integers(1, 49407, (16, 24)).astype(np.int32),
        },
    )
    step = lower_train_step(job.train_step, mesh, state, batch).compile()
    states, shardings = [jax.device_get(state)], jax.tree.map(lambda x: x.sharding, state)
    for _ in range(2):
        state, metrics = step(state, batch)
        states.append(jax.device_get(state))
    bad = state.replace(
        params=state.params | {'logit_scale': state.params['logit_scale'] * jnp.nan}
    )
    skipped = jax.device_get(step(bad, batch)[0])
    return states, shardings, metrics, skipped


def moved(before, after):
    """Path -> whether each layer, or the whole array, changed."""
    before, after = (flatten_dict(s.params, sep='/') for s in (before, after))

    def changed(path):
        different = before[path] != after[path]
        return (
            different.any(axis=tuple(range(1, different.ndim)))
            if '/blocks/' in path
            else different.any()
        )

    return {path: changed(path) for path in before}


def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(tuned):
    states, _, metrics, _ = tuned
    for path, change in moved(states[0], states[2]).items():
        if path.startswith('text_tower') or path.startswith(
            tuple(
                f'image_tower/{n}'
                for n in ('patch_embedding', 'class_token', 'positions', 'ln_pre')
            )
        ):
            assert not np.any(change), path
        elif '/blocks/' in path:
            assert not change[0], path
            assert change[1], path
        else:
            assert change, path
    assert float(metrics['grad_norm']) > 0.1  # logged before it is clipped


def test_the_average_follows_the_weights_and_is_sharded_as_they_are(tuned):
    states, shardings, _, _ = tuned
    for step, decay in ((0, 0.1), (1, 2 / 11)):  # (1 + step) / (10 + step), below 0.75
        before, after = states[step], states[step + 1]
        for old, new, weight in zip(
            *map(jax.tree.leaves, (before.average, after.average, after.params)), strict=True
        ):
            np.testing.assert_allclose(new, old + (1 - decay) * (weight - old), atol=1e-6)
    assert jax.tree.leaves(shardings.average) == jax.tree.leaves(shardings.params)
    assert any('fsdp' in s.spec for s in jax.tree.leaves(shardings.average))
    assert states[2].weights is states[2].average


def test_a_step_without_a_finite_loss_changes_no_weight_and_no_moment(tuned):
    states, _, _, skipped = tuned
    assert int(skipped.step) == 3
    for name in ('image_tower', 'text_tower'):
        for a, b in zip(
            *(jax.tree.leaves(s.params[name]) for s in (states[2], skipped)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    moments = [
        [
            x
            for p, x in jax.tree.leaves_with_path(s.opt_state)
            if 'count' not in jax.tree_util.keystr(p)
        ]
        for s in (states[2], skipped)
    ]
    for a, b in zip(*moments, strict=True):
        np.testing.assert_array_equal(a, b)
