"""The exact gradient of a contrastive loss over a batch that does not fit at once.

Two passes over the microbatches (GradCache, Gao et al., arXiv 2101.06983): the first embeds all
of them and keeps features alone; the loss over the whole batch gives each feature's gradient; the
second embeds again and pulls these gradients back to the parameters. One more forward pass than a
step without, for activations of one microbatch at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pgs.sharding import mesh_size, shard_batch


def split(x_B: jax.Array, count: int) -> jax.Array:
    """(B, ...) -> (count, B / count, ...); every device cuts up its own rows, nothing moves."""
    devices = mesh_size()
    parts = x_B.reshape(devices, count, -1, *x_B.shape[1:]).swapaxes(0, 1)
    return shard_batch(parts.reshape(count, -1, *x_B.shape[1:]), axis=1)


def join(parts: jax.Array) -> jax.Array:
    """The rows in the order that they had before `split`."""
    devices, count = mesh_size(), parts.shape[0]
    rows = parts.reshape(count, devices, -1, *parts.shape[2:]).swapaxes(0, 1)
    return shard_batch(rows.reshape(-1, *parts.shape[2:]))


def loss_and_gradient(
    embed: Callable[[Any, Any], tuple[Any, Any]],
    loss: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    count: int,
) -> tuple[jax.Array, Any, Any]:
    """Value and gradient of loss(params, features of the batch), as if `count` were 1.

    Args:
      embed: (params, rows of a batch) -> (features, aux), trees with a leading batch axis.
      loss: (params, features of all rows) -> scalar.
      params: tree of arrays.
      batch: tree of arrays with a leading batch axis, which count times the devices divides.
      count: microbatches.

    Returns:
      (loss, gradient like params, aux of all rows).
    """
    if count == 1:

        def whole_loss(params):
            features, aux = embed(params, batch)
            return loss(params, features), aux

        (value, aux), gradient = jax.value_and_grad(whole_loss, has_aux=True)(params)
        return value, gradient, aux

    parts = jax.tree.map(lambda x: split(x, count), batch)
    _, cached = jax.lax.scan(lambda _, part: (None, embed(params, part)), None, parts)
    features, aux = jax.tree.map(join, cached)
    value, (gradient, by_feature) = jax.value_and_grad(loss, argnums=(0, 1))(params, features)

    def pull_back(gradient, part):
        rows, cotangent = part
        _, pull, _ = jax.vjp(lambda p: embed(p, rows), params, has_aux=True)
        return jax.tree.map(jnp.add, gradient, pull(cotangent)[0]), None

    by_part = jax.tree.map(lambda x: split(x, count), by_feature)
    gradient, _ = jax.lax.scan(pull_back, gradient, (parts, by_part))
    return value, gradient, aux
