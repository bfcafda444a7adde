"""FLOPs of the matrix products in a traced function, loops and rematerialisation counted in full."""

import math

import jax
from jax.extend import core


def matmul_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """Multiplications and additions of all products and convolutions, 2 each pair.

    XLA's own cost analysis counts the body of a loop once, whatever its length; the layers of
    our towers are a loop.

    Args:
      jaxpr: of jax.make_jaxpr, or of jax.jit(...).trace(...).

    Returns:
      FLOPs of one call over the global batch; of branches, the dearest.
    """
    jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == 'dot_general':
            (contracted, _), _ = params['dimension_numbers']
            depth = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
            total += 2 * depth * equation.outvars[0].aval.size
        elif name == 'conv_general_dilated':
            kernel = equation.invars[1].aval
            outputs = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * kernel.size // outputs
        elif name == 'cond':
            total += max(matmul_flops(branch) for branch in params['branches'])
        elif name == 'scan':
            total += params['length'] * matmul_flops(params['jaxpr'])
        elif name == 'while' and matmul_flops(params['body_jaxpr']):
            raise ValueError('a while loop with a product in it: its length is not known here')
        else:
            total += sum(map(matmul_flops, inner(params)))
    return total


def inner(params: dict) -> list:
    """The jaxprs that an equation calls once: jit, remat, custom derivatives."""
    values = [v for p in params.values() for v in (p if isinstance(p, tuple | list) else [p])]
    return [v for v in values if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]


def flops_of(function, *arguments) -> int:
    """FLOPs of the products in function(*arguments); nothing runs."""
    return matmul_flops(jax.make_jaxpr(function)(*arguments))
