"""Names, shapes and counts of a model's parameters, computed without creating arrays.

An architecture is a mapping like config.model, with the keys ARCHITECTURE_KEYS.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from pgs.config_table import check_value, flat
from pgs.convert.tensors import check_tensors
from pgs.models.clip import build_model

ARCHITECTURE_KEYS = ('embed_dim', 'image', 'text', 'remat', 'quick_gelu')  # not dtype and unroll


def check_architecture(architecture: dict[str, Any]) -> None:
    """Raises UserError for a missing value, or one of another type or outside its range."""
    values = flat({'model': architecture})
    defaults = flat({'model': base.get_config().model.to_dict()})
    for key in defaults:
        if key.split('.')[1] in ARCHITECTURE_KEYS:
            check_value(key, values.get(key), defaults[key])


def abstract_params(architecture: dict[str, Any]) -> dict[str, Any]:
    """The parameter tree of `CLIP` as shapes.

    Raises:
      UserError: an invalid architecture.
    """
    check_architecture(architecture)
    model = build_model(architecture, dtype=jnp.float32)
    size = architecture['image']['image_size']
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, architecture['text']['context_length']), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']


def layout_of(
    architecture: dict[str, Any], rename: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of a model's tensors in another layout.

    Args:
      architecture: of the model.
      rename: parameter tree -> tensors by name.
    """
    return jax.eval_shape(rename, abstract_params(architecture))


def flat_params(params: dict[str, Any]) -> dict[str, Any]:
    """The tree by path: 'image_tower/projection' -> array."""
    return flax.traverse_util.flatten_dict(params, sep='/')


def check_params(params: dict[str, Any], architecture: dict[str, Any], where: str) -> None:
    """Raises UserError if a tree does not fit the architecture; see check_tensors."""
    check_tensors(flat_params(params), layout_of(architecture, flat_params), where)


def count(params: dict[str, Any]) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def fingerprint(params: Any) -> str:
    """16 hex digits that identify a tree of weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def summary(architecture: dict[str, Any], params: dict[str, Any]) -> str:
    """One phrase: parameters in millions and the architecture."""
    image, text = architecture['image'], architecture['text']
    towers = (
        f'image {image["image_size"]} px / {image["patch_size"]}, width {image["width"]}, '
        f'{image["layers"]} layers, {image["heads"]} heads; text {text["context_length"]} of '
        f'{text["vocab_size"]} tokens, width {text["width"]}, {text["layers"]} layers, '
        f'{text["heads"]} heads; embedding {architecture["embed_dim"]}'
    )
    activation = 'QuickGELU' if architecture['quick_gelu'] else 'exact GELU'
    return f'{count(params) / 1e6:.1f} M parameters ({towers}; {activation})'
