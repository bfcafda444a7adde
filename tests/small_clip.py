"""A small CLIP with random weights, for the tests of conversion."""

import copy

import jax
import jax.numpy as jnp
import numpy as np

from pgs.convert.load import Checkpoint
from pgs.models import build_model

CONFIG = {
    'embed_dim': 24,
    'image': {
        'image_size': 32,
        'patch_size': 8,
        'width': 64,
        'layers': 2,
        'heads': 4,
        'mlp_ratio': 4.0,
    },
    'text': {
        'context_length': 12,
        'vocab_size': 300,
        'width': 32,
        'layers': 3,
        'heads': 2,
        'mlp_ratio': 2.0,
    },
    'remat': 'none',
    'quick_gelu': False,
}


def small_checkpoint(*, quick_gelu: bool = False) -> Checkpoint:
    """A CLIP with random numbers in every parameter, so that exchanged parameters are noticed."""
    architecture = copy.deepcopy(CONFIG) | {'quick_gelu': quick_gelu}
    model = build_model(architecture, dtype=jnp.float32)
    images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 12), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: np.asarray(rng.normal(0, 0.1, p.shape), np.float32), params)
    params['logit_scale'] = np.array(2.5, np.float32)
    return Checkpoint(model, params, architecture, 'random numbers')


def batch(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(normalised images, tokens that end with the highest id)."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, 32, 32, 3)).astype(np.float32)
    tokens = rng.integers(1, 298, (count, 12)).astype(np.int32)
    for row, end in enumerate(rng.integers(4, 12, count)):
        tokens[row, end:] = 0
        tokens[row, end - 1] = 299
    return images, tokens


def same_trees(left: dict, right: dict) -> None:
    """Asserts that two trees are equal to the bit."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
