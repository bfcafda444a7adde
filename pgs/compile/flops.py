"""FLOPs of the matrix products in a traced function, with loops and rematerialisation in full."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def flops_of(function: Callable, *arguments) -> int:
    """FLOPs of the products in function(*arguments), which is traced and not run."""
    return matmul_flops(jax.make_jaxpr(function)(*arguments))


def matmul_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """Multiplications and additions of all matrix products and convolutions, 2 for each pair.

    XLA's own cost analysis counts the body of a loop once, whatever its length; the layers of
    the towers are a loop.

    Args:
      jaxpr: of jax.make_jaxpr, or of jax.jit(...).trace(...).

    Returns:
      FLOPs of one call over the global batch; of the branches of a condition, the most expensive.

    Raises:
      ValueError: a `while` loop with a product in it, since its length is unknown.
    """
    jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        # Any: the abstract value of an array, whose type jax.extend does not export.
        result: Any = equation.outvars[0].aval if equation.outvars else None
        if name == 'dot_general':
            (contracted, _), _ = params['dimension_numbers']
            left: Any = equation.invars[0].aval
            total += 2 * math.prod(left.shape[d] for d in contracted) * result.size
        elif name == 'conv_general_dilated':
            kernel: Any = equation.invars[1].aval
            outputs = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
            total += 2 * result.size * kernel.size // outputs
        elif name == 'cond':
            total += max(matmul_flops(branch) for branch in params['branches'])
        elif name == 'scan':
            total += params['length'] * matmul_flops(params['jaxpr'])
        elif name == 'while' and matmul_flops(params['body_jaxpr']):
            raise ValueError('a while loop with a product in it: its length is not known here')
        else:
            total += sum(map(matmul_flops, inner_jaxprs(params)))
    return total


def inner_jaxprs(params: dict[str, Any]) -> list[core.ClosedJaxpr | core.Jaxpr]:
    """The jaxprs that an equation runs once: those of jit, remat and custom derivatives."""
    values = [v for p in params.values() for v in (p if isinstance(p, tuple | list) else [p])]
    return [v for v in values if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]
