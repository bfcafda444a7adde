"""The order in which a TPU keeps an array in memory, where the compiler's own choice is a slow one.

By itself XLA puts the images of a batch side by side along the 128 lanes of a TPU's registers, because
three channels would leave most lanes empty. 64 images of a chip fill half of them, and all that follows
takes twice as long (docs/performance.md). The values are the same in any order; other platforms keep
theirs.
"""

import jax
from jax.experimental.layout import Layout, with_layout_constraint

LANES = 128  # of a register, and columns of the matrix unit


def row_major(x: jax.Array) -> jax.Array:
    """The same array; on a TPU its last axis lies along the lanes, and the one before it across them."""
    return on_tpu(x, tuple(range(x.ndim)))


def planar(images_BxHxWx3: jax.Array) -> jax.Array:
    """The same images; on a TPU each channel is a plane of its own, with a row along the lanes."""
    return on_tpu(images_BxHxWx3, (0, 3, 1, 2))


def on_tpu(x: jax.Array, major_to_minor: tuple[int, ...]) -> jax.Array:
    """The same array; on a TPU with its axes in this order, the slowest one first."""
    return jax.lax.platform_dependent(
        x,
        tpu=lambda x: with_layout_constraint(x, Layout(major_to_minor)),
        default=lambda x: x,
    )
