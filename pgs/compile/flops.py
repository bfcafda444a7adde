"""FLOPs of the matrix products in a traced function, with loops and rematerialisation in full."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def flops_of(function: Callable, *arguments) -> int:
    """FLOPs of the products in function(*arguments), which is traced and not run."""
    return matmul_flops(jax.make_jaxpr(function)(*arguments), jax.default_backend())


def matmul_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr, platform: str) -> int:
    """Multiplications and additions of all matrix products and convolutions, 2 for each pair.

    XLA's own cost analysis counts the body of a loop once, whatever its length; the layers of
    the towers are a loop.

    Args:
      jaxpr: of jax.make_jaxpr, or of jax.jit(...).trace(...).
      platform: 'cpu', 'gpu' or 'tpu', whose branch counts where they differ by platform.

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
            branches = zip(params['branches'], platforms_of(params), strict=True)
            total += max(matmul_flops(b, platform) for b, names in branches if platform in names)
        elif name == 'scan':
            total += params['length'] * matmul_flops(params['jaxpr'], platform)
        elif name == 'pallas_call':  # our kernels say it: what they pad is no work
            total += params['cost_estimate'].flops
        elif name == 'shard_map':  # its shapes are those of one device
            total += params['mesh'].size * matmul_flops(params['jaxpr'], platform)
        elif name == 'while' and matmul_flops(params['body_jaxpr'], platform):
            raise ValueError('a while loop with a product in it: its length is not known here')
        else:
            total += sum(matmul_flops(inner, platform) for inner in inner_jaxprs(params))
    return total


def platforms_of(params: dict[str, Any]) -> list[tuple[str, ...]]:
    """The platforms of each branch of a `cond`: all, but of jax.lax.platform_dependent those named."""
    known = ('cpu', 'gpu', 'tpu')
    named = params.get('branches_platforms') or [known] * len(params['branches'])
    others = tuple(p for p in known if not any(p in (names or ()) for names in named))
    return [others if names is None else names for names in named]


def inner_jaxprs(params: dict[str, Any]) -> list[core.ClosedJaxpr | core.Jaxpr]:
    """The jaxprs that an equation runs once: those of jit, remat and custom derivatives."""
    values = [v for p in params.values() for v in (p if isinstance(p, tuple | list) else [p])]
    return [v for v in values if isinstance(v, core.ClosedJaxpr | core.Jaxpr)]
