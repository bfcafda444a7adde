"""One mesh for one device and for many: the batch is split, the state is on every device."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pgs.errors import UserError


def make_mesh(batch_size: int, devices=None) -> Mesh:
    """A mesh of all devices along 'data'.

    Raises:
      UserError: the devices do not divide the global batch.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        lower = batch_size // len(devices) * len(devices)
        near = [n for n in (lower, lower + len(devices)) if n]
        raise UserError(
            f'batch_size={batch_size} does not split over {len(devices)} devices: '
            f'take {" or ".join(map(str, near))}'
        )
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over all devices."""
    return NamedSharding(mesh, PartitionSpec('data'))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def to_devices(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Each host's part of a batch -> one global array, split over the devices."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }
