"""One mesh for one device or many. All its axes shard the batch; two of them shard the state too.

The step is written as for one device. This module decides where its arrays are placed; XLA inserts
the collectives. A parameter that 'fsdp' shards is gathered where it is used, layer by layer, and its
gradient is scattered: fully sharded data parallelism (Zhao et al., arXiv 2304.11277). 'zero' shards
the update: each device holds and updates its part of parameters and moments, and a step first gathers
all parameters, once (ZeRO-1, Rajbhandari et al., arXiv 1910.02054; Xu et al., arXiv 2004.13336).
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pgs.errors import UserError

AXES = ('data', 'zero', 'fsdp')

# Arrays with fewer elements are replicated: gathering a gain or a bias costs a message and saves no
# memory worth it.
SPLIT_FROM = 2**14


def make_mesh(
    mesh_config: Mapping[str, int], batch_size: int, devices: Sequence | None = None
) -> Mesh:
    """The mesh that config.mesh describes, over all devices.

    Args:
      mesh_config: config.mesh: the number of devices along each of AXES; -1 in one of them stands
        for the remaining devices, and an axis that is missing has one.
      batch_size: pairs of a global batch.
      devices: all devices of all processes, by default.

    Raises:
      UserError: see `mesh_shape`.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(mesh_config, batch_size, len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(mesh_config: Mapping[str, int], batch_size: int, count: int) -> tuple[int, ...]:
    """Devices along each of AXES, of `count` devices in all.

    Raises:
      UserError: axes that do not fit the devices, or devices that do not divide the batch.
    """
    sizes = [mesh_config.get(axis, 1) for axis in AXES]
    given = ', '.join(
        f'config.mesh.{axis}={size}'
        for axis, size in zip(AXES, sizes, strict=True)
        if axis != 'zero' or size != 1
    )
    if any(s != -1 and s < 1 for s in sizes) or sizes.count(-1) > 1:
        raise UserError(f'{given}: give numbers of devices, and -1 (the rest) for one axis at most')
    product = math.prod(s for s in sizes if s != -1)
    if count % product or (-1 not in sizes and product != count):
        fitting = [n for n in range(1, count + 1) if count % n == 0]
        raise UserError(
            f'{given} does not fit {count} devices: set data to -1 and fsdp to one of '
            f'{", ".join(map(str, fitting))}'
        )
    if batch_size % count:
        lower = batch_size // count * count
        near = [n for n in (lower, lower + count) if n]
        raise UserError(
            f'batch_size={batch_size} does not split over {count} devices: '
            f'take {" or ".join(map(str, near))}'
        )
    return tuple(count // product if s == -1 else s for s in sizes)


def mesh_text(shape: Mapping[str, int]) -> str:
    """The axes with more than one device: 'data 8 x fsdp 2'."""
    return ' x '.join(f'{axis} {size}' for axis, size in shape.items() if size > 1) or '1 device'


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_spec(shape: tuple[int, ...], fsdp: int, zero: int = 1) -> PartitionSpec:
    """Shards the longest axis that the devices divide; small arrays are replicated.

    Weights are stacked by layer along their first axis, which is never their longest, so that
    each layer is spread over all devices.

    Args:
      shape: of a parameter or a moment.
      fsdp: devices along this axis.
      zero: devices along this axis. It divides what fsdp leaves of the same axis; where it does not
        divide that, fsdp alone shards the array. 1: what a step computes with.
    """
    if fsdp * zero == 1 or np.prod(shape) < SPLIT_FROM:
        return PartitionSpec()
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    splits = zero > 1 and shape[longest] % (fsdp * zero) == 0
    # fsdp first, so that gathering over 'zero' leaves each device its part of 'fsdp'.
    over = tuple(a for a, used in (('fsdp', fsdp > 1), ('zero', splits)) if used)
    names = over[0] if len(over) == 1 else over or None
    return PartitionSpec(*(names if axis == longest else None for axis in range(len(shape))))


def state_sharding(mesh: Mesh, state):
    """The placement of each array of a state, by `state_spec`."""
    fsdp, zero = mesh.shape['fsdp'], mesh.shape['zero']
    return jax.tree.map(lambda x: NamedSharding(mesh, state_spec(x.shape, fsdp, zero)), state)


def compiler_options(mesh: Mesh) -> dict[str, bool]:
    """What XLA has to be told about a step over this mesh.

    Where the state is sharded, a TPU's compiler would split each product with a weight, and each
    that gives its gradient, into as many parts as there are devices, to pass them on from neighbour
    to neighbour meanwhile. At this model's sizes that takes several times as long (docs/scaling.md).
    """
    is_split = mesh.shape['zero'] * mesh.shape['fsdp'] > 1
    if not is_split or mesh.devices.flat[0].platform != 'tpu':
        return {}
    return {
        'xla_tpu_enable_windowed_einsum_for_reduce_scatter': False,
        'xla_tpu_enable_windowed_einsum_for_all_gather': False,
    }


def gather_weights(params, dtype):
    """Within a step: full copies of parameters that 'zero' shards. No-op unless zero > 1.

    Args:
      params: tree of arrays.
      dtype: of the computation. Kernels are cast to it first, as the layers would do afterwards, so
        that half of the bytes are exchanged where it has 16 bits.

    Returns:
      The tree; its gradient is summed and scattered in one collective, like `params`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape['zero'] == 1:
        return params

    def gather(path: tuple, x: jax.Array) -> jax.Array:
        return gathered(x, dtype if path[-1].key == 'kernel' else x.dtype)

    return jax.tree.map_with_path(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(x: jax.Array, dtype) -> jax.Array:
    """A parameter that 'zero' shards, cast to `dtype` and gathered."""
    fsdp = jax.sharding.get_abstract_mesh().shape['fsdp']
    return constrain(shard_as_state(x.astype(dtype)), state_spec(x.shape, fsdp))


def _gathered(x, dtype):
    return gathered(x, dtype), jnp.zeros((), x.dtype)


def _scattered(dtype, of_x, gradient):
    return (shard_as_state(gradient).astype(of_x.dtype),)


gathered.defvjp(_gathered, _scattered)


def shard_as_state(x: jax.Array) -> jax.Array:
    """Within a step: places an array as a state's array of its shape is placed."""
    mesh = jax.sharding.get_abstract_mesh()
    return constrain(x, state_spec(x.shape, mesh.shape['fsdp'], mesh.shape['zero']))


def shard_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """Within a step: shards the batch axis over all devices. No-op without a mesh.

    No-op as well where the devices do not divide the axis; XLA then chooses the placement.
    """
    if x.shape[axis] % mesh_size():
        return x
    return constrain(x, PartitionSpec(*[None] * axis, AXES))


def replicate(x: jax.Array) -> jax.Array:
    """Within a step: a full copy on each device, gathered if necessary. No-op without a mesh."""
    return constrain(x, PartitionSpec())


def constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def mesh_size() -> int:
    """Number of devices of the current mesh, 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of the global batch that belong to this process's devices, ascending.

    A mesh follows the wiring of a pod, so these rows need not be contiguous.
    """
    return rows_of_processes(mesh, batch_size)[jax.process_index()]


def rows_of_processes(mesh: Mesh, batch_size: int) -> list[np.ndarray]:
    """Rows of the global batch that belong to the devices of each process, ascending."""
    slices = batch_sharding(mesh).devices_indices_map((batch_size,))
    owner = np.zeros(batch_size, int)
    for device in mesh.devices.flat:
        owner[slices[device]] = device.process_index
    return [np.flatnonzero(owner == process) for process in range(jax.process_count())]


def to_devices(
    mesh: Mesh, batch: dict[str, np.ndarray], rows: np.ndarray | None = None
) -> dict[str, jax.Array]:
    """A host's part of a batch -> global arrays, sharded over all devices.

    Args:
      batch: this host's rows of the global batch.
      rows: the indices of these rows, see `process_rows`; None if the host has all of them.
    """
    sharding = batch_sharding(mesh)
    size = batch_size_of(mesh, batch, rows)

    def place(values: np.ndarray) -> jax.Array:
        def part(index):
            start, stop, _ = index[0].indices(size)
            first = start if rows is None else np.searchsorted(rows, start)
            return values[first : first + stop - start]

        return jax.make_array_from_callback((size, *values.shape[1:]), sharding, part)

    return {name: place(values) for name, values in batch.items()}


def batch_size_of(mesh: Mesh, batch, rows) -> int:
    """Size of the global batch, of which every device holds equally many rows."""
    local = len(next(iter(batch.values())))
    return local if rows is None else local // len(mesh.local_devices) * mesh.size


def to_host(mesh: Mesh, tree):
    """Full numpy copies of a tree of global arrays, on every host; all hosts must call it."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree))
