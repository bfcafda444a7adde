"""GradCache microbatches: the full batch's gradient with the activations of one part at a time.

Two passes over the microbatches (Gao et al., arXiv 2101.06983). The first embeds all of them and
keeps only the features; the loss over the full batch gives the gradient of each feature. The second
embeds again and propagates these gradients to the parameters. This costs one more forward pass than
a step without microbatches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pgs.sharding import mesh_size, shard_batch


def split(x_B: jax.Array, count: int) -> jax.Array:
    """(B, ...) -> (count, B / count, ...); every device splits its own rows, no data moves."""
    devices = mesh_size()
    parts = x_B.reshape(devices, count, -1, *x_B.shape[1:]).swapaxes(0, 1)
    return shard_batch(parts.reshape(count, -1, *x_B.shape[1:]), axis=1)


def join(parts: jax.Array) -> jax.Array:
    """The inverse of `split`: rows in the order of the batch."""
    devices, count = mesh_size(), parts.shape[0]
    rows = parts.reshape(count, devices, -1, *parts.shape[2:]).swapaxes(0, 1)
    return shard_batch(rows.reshape(-1, *parts.shape[2:]))


def map_parts(function: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """function(batch) for a function of rows, computed on one of `count` microbatches at a time.

    Args:
      function: rows of a batch -> tree of arrays with the same leading axis.
      batch, count: as for loss_and_gradient.
    """
    if count == 1:
        return function(batch)
    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(lambda x: split(x, count), batch)))


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
      batch: tree of arrays with a leading batch axis; count times the number of devices divides it.
      count: number of microbatches.

    Returns:
      (loss, gradient like params, aux of all rows).
    """
    if count == 1:

        def batch_loss(params):
            features, aux = embed(params, batch)
            return loss(params, features), aux

        (value, aux), gradient = jax.value_and_grad(batch_loss, has_aux=True)(params)
        return value, gradient, aux

    parts = jax.tree.map(lambda x: split(x, count), batch)
    _, cached = jax.lax.scan(lambda _, part: (None, embed(params, part)), None, parts)
    features, aux = jax.tree.map(join, cached)
    value, (gradient, feature_gradient) = jax.value_and_grad(loss, argnums=(0, 1))(params, features)

    def add_part(gradient, part):
        rows, cotangent = part
        _, vjp, _ = jax.vjp(lambda p: embed(p, rows), params, has_aux=True)
        return jax.tree.map(jnp.add, gradient, vjp(cotangent)[0]), None

    cotangents = jax.tree.map(lambda x: split(x, count), feature_gradient)
    gradient, _ = jax.lax.scan(add_part, gradient, (parts, cotangents))
    return value, gradient, aux
