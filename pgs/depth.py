"""How deep in its tower a parameter lies: what is frozen, and rates that fall towards the input.

The blocks of a tower are stacked, one array for a parameter of all layers (models/transformer.py).
So a parameter's rate is an array that broadcasts along that first axis.

Depths of a tower with L layers: 0 the embeddings, 1 to L the blocks, L + 1 the last norm and the
projection. The logit scale belongs to no tower: it is always trained, at the full rate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

TOWERS = ('image', 'text')
EMBEDDINGS = ('patch_embedding', 'class_token', 'positions', 'ln_pre', 'token_embedding')
BLOCKS = ('transformer', 'blocks')


def freezes(optimizer: ConfigDict) -> bool:
    """Whether config.optimizer freezes anything."""
    return bool(optimizer.frozen or any(optimizer[f'frozen_{t}_layers'] for t in TOWERS))


def rate_factors(optimizer: ConfigDict, params: Any) -> Any:
    """What the learning rate of each parameter is multiplied by.

    layer_decay ** (L + 1 - depth), as in ELECTRA (arXiv 2003.10555) and BEiT (arXiv 2106.08254);
    0 for what is frozen.

    Args:
      optimizer: config.optimizer, with frozen, frozen_image_layers, frozen_text_layers, layer_decay.
      params: the parameters of CLIP, or anything of that structure and these shapes.

    Returns:
      A tree like params of float32 numpy arrays that broadcast to the parameters.
    """
    flat = flatten_dict(params)

    def factor(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        name = path[0].removesuffix('_tower')
        if name not in TOWERS:
            return np.ones((), np.float32)
        last = flat[(path[0], *BLOCKS, 'ln_1', 'scale')].shape[0] + 1
        depth = np.asarray(last)
        if path[1:3] == BLOCKS:
            depth = np.arange(1, last).reshape(-1, *[1] * (leaf.ndim - 1))
        elif path[1] in EMBEDDINGS:
            depth = np.asarray(0)
        layers = optimizer[f'frozen_{name}_layers']
        frozen = (name in optimizer.frozen) | ((layers > 0) & (depth <= layers))
        return np.where(frozen, 0.0, optimizer.layer_decay ** (last - depth)).astype(np.float32)

    return unflatten_dict({path: factor(path, leaf) for path, leaf in flat.items()})


def frozen_count(optimizer: ConfigDict, params: Any) -> int:
    """How many of the parameters are frozen; arguments as for `rate_factors`."""
    shares = jax.tree.map(
        lambda p, f: round(p.size * (f == 0.0).mean()), params, rate_factors(optimizer, params)
    )
    return sum(jax.tree.leaves(shares))


def hold_frozen(optimizer: ConfigDict, params: Any) -> Any:
    """The same parameters, without a gradient for those that are frozen.

    The backward pass of a tower that is frozen as a whole is then not part of the step. A tower with
    some frozen layers is propagated through completely, since all its layers are one loop.
    """

    def held(param: jax.Array, factor: np.ndarray) -> jax.Array:
        if factor.all():
            return param
        fixed = jax.lax.stop_gradient(param)
        return jnp.where(factor > 0.0, param, fixed) if factor.any() else fixed

    return jax.tree.map(held, params, rate_factors(optimizer, params))
