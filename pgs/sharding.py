"""One mesh for one device and for many: 'data' splits the batch, 'fsdp' the batch and the state.

The step is written as for one device. What is said here is where its arrays lie; XLA inserts the
collectives. A parameter that 'fsdp' splits is gathered where it is used, layer by layer, and its
gradient is scattered: fully sharded data parallelism (Zhao et al., arXiv 2304.11277).
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pgs.errors import UserError

AXES = ('data', 'fsdp')

# Elements below which an array is kept whole: to gather a gain or a bias costs a message, not memory.
SPLIT_FROM = 2**14


def make_mesh(mesh_config, batch_size: int, devices=None) -> Mesh:
    """The mesh (data, fsdp) that config.mesh describes, over all devices.

    Args:
      mesh_config: mapping with data and fsdp, devices along each axis; -1 in one of them stands
        for all that the other leaves.
      batch_size: pairs of a global batch.
      devices: all devices of all processes, by default.

    Raises:
      UserError: axes that do not fit the devices, or devices that do not divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp = axis_sizes(mesh_config, len(devices))
    if batch_size % len(devices):
        lower = batch_size // len(devices) * len(devices)
        near = [n for n in (lower, lower + len(devices)) if n]
        raise UserError(
            f'batch_size={batch_size} does not split over {len(devices)} devices: '
            f'take {" or ".join(map(str, near))}'
        )
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def axis_sizes(mesh_config, count: int) -> tuple[int, int]:
    """Devices along data and along fsdp, of `count` devices in all."""
    sizes = [mesh_config['data'], mesh_config['fsdp']]
    said = f'config.mesh.data={sizes[0]}, config.mesh.fsdp={sizes[1]}'
    if any(s != -1 and s < 1 for s in sizes) or sizes == [-1, -1]:
        raise UserError(f'{said}: give numbers of devices, and -1 (the rest) for one axis at most')
    given = -sizes[0] * sizes[1] if -1 in sizes else sizes[0] * sizes[1]
    if count % given or (-1 not in sizes and given != count):
        fitting = [n for n in range(1, count + 1) if count % n == 0]
        raise UserError(
            f'{said} does not fit {count} devices: set data to -1 and fsdp to one of '
            f'{", ".join(map(str, fitting))}'
        )
    data, fsdp = (count // given if s == -1 else s for s in sizes)
    return data, fsdp


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Splits the longest axis that fsdp divides; small arrays stay whole.

    Weights are stacked by layer along their first axis, which is never their longest, so that
    each layer is spread over all devices.
    """
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < SPLIT_FROM:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*('fsdp' if axis == longest else None for axis in range(len(shape))))


def state_sharding(mesh: Mesh, state):
    """Where each array of a state lies: parameters and optimiser by one rule, `state_spec`."""
    fsdp = mesh.shape['fsdp']
    return jax.tree.map(lambda x: NamedSharding(mesh, state_spec(x.shape, fsdp)), state)


def split_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """Within a step: the batch axis lies over all devices. Nothing where no mesh is set.

    Nor where the devices do not divide the axis: XLA then lays it out as it sees fit.
    """
    if x.shape[axis] % mesh_size():
        return x
    return constrain(x, PartitionSpec(*[None] * axis, AXES))


def whole(x: jax.Array) -> jax.Array:
    """Within a step: a copy on each device, gathered if need be. Nothing where no mesh is set."""
    return constrain(x, PartitionSpec())


def constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def mesh_size() -> int:
    """Devices of the mesh that is set, 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of the global batch that lie on this process's devices, ascending.

    A mesh follows the wiring of a pod, so these need not be one run of rows.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[s] for s in slices]))


def to_devices(
    mesh: Mesh, batch: dict[str, np.ndarray], rows: np.ndarray | None = None
) -> dict[str, jax.Array]:
    """A host's part of a batch -> global arrays, split over all devices.

    Args:
      batch: this host's rows of the global batch.
      rows: which these are, `process_rows`; None where the host has all of them.
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
    """Of the global batch: every device holds as many rows."""
    local = len(next(iter(batch.values())))
    return local if rows is None else local // len(mesh.local_devices) * mesh.size


def to_host(mesh: Mesh, tree):
    """Whole numpy copies of a tree of global arrays, on every host; all hosts must call it."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree))
