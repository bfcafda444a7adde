"""What a described model's parameters look like, without any array being made."""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from pgs.convert.tensors import check_tensors
from pgs.models.clip import build_model

KEYS = ('embed_dim', 'image', 'text', 'remat', 'quick_gelu')  # of config.model, but for its dtype


def abstract_params(described: dict) -> dict:
    """The parameter tree of `CLIP` as shapes.

    Args:
      described: mapping as config.model.

    Raises:
      UserError: a model that cannot be.
    """
    model = build_model(described, dtype=jnp.float32)
    size, length = described['image']['image_size'], described['text']['context_length']
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']


def layout_of(described: dict, rename: Callable[[dict], dict]) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of a described model's tensors in another layout.

    Args:
      described: mapping as config.model.
      rename: parameter tree -> tensors by name.
    """
    return jax.eval_shape(rename, abstract_params(described))


def flat_params(params: dict) -> dict:
    """The tree by path: 'image_tower/projection' -> array."""
    return flax.traverse_util.flatten_dict(params, sep='/')


def check_params(params: dict, described: dict, where: str) -> None:
    """Raises UserError where a tree is not that of the described model, see check_tensors."""
    check_tensors(flat_params(params), layout_of(described, flat_params), where)


def count(params: dict) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def summary(described: dict, params: dict) -> str:
    """One phrase: parameters in millions and the architecture."""
    image, text = described['image'], described['text']
    towers = (
        f'image {image["image_size"]} px / {image["patch_size"]}, width {image["width"]}, '
        f'{image["layers"]} layers, {image["heads"]} heads; text {text["context_length"]} of '
        f'{text["vocab_size"]} tokens, width {text["width"]}, {text["layers"]} layers, '
        f'{text["heads"]} heads; embedding {described["embed_dim"]}'
    )
    activation = 'QuickGELU' if described['quick_gelu'] else 'exact GELU'
    return f'{count(params) / 1e6:.1f} M parameters ({towers}; {activation})'
