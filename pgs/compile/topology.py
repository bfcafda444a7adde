"""TPU slices that a step can be compiled for without a TPU, and the performance of their chips."""

import importlib.util
import math
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from pgs.errors import UserError, did_you_mean


class Chip(NamedTuple):
    """Published figures of one chip, from Google's Cloud TPU system architecture pages."""

    flops: float  # bfloat16 FLOP/s, peak
    memory: float  # bytes of HBM
    bandwidth: float  # bytes/s from HBM
    wires: float  # bytes/s to other chips, sum of all links in one direction
    clock: float  # Hz: peak FLOP/s divided by the FLOPs of its matrix units in a cycle


CHIPS = {
    'v4': Chip(275e12, 32 * 2**30, 1.228e12, 300e9, 1.05e9),
    'v5e': Chip(197e12, 16 * 2**30, 0.819e12, 200e9, 1.5e9),
    'v5p': Chip(459e12, 95 * 2**30, 2.765e12, 600e9, 1.75e9),
    'v6e': Chip(918e12, 32 * 2**30, 1.640e12, 400e9, 1.75e9),
}
FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
TOPOLOGIES = {'v4': CUBES, 'v5e': FLAT, 'v5p': CUBES, 'v6e': FLAT}

# libtpu looks for a TPU on the machine that it runs on; these settings make it work without one.
WITHOUT_TPU = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_MIN_LOG_LEVEL': '3',
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology, by its name such as 'v5e:8x8'.

    Raises:
      UserError: an unknown name; the message lists the known ones.
    """
    kind, _, shape = topology.partition(':')
    if shape not in TOPOLOGIES.get(kind, ()):
        names = [f'{k}:{s}' for k, shapes in TOPOLOGIES.items() for s in shapes]
        hint = did_you_mean(topology, names)
        known = '; '.join(f'{k}: {", ".join(shapes)}' for k, shapes in TOPOLOGIES.items())
        raise UserError(f'--topology={topology} is unknown: {hint}known are {known}')
    return CHIPS[kind]


def devices_of(topology: str) -> list[jax.Device]:
    """The devices of a topology, one for each chip; programs can be compiled for them but not run.

    Raises:
      UserError: an unknown topology, or no libtpu.
    """
    chip_of(topology)
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            'libtpu, the compiler for TPUs, is not installed: pip install -r requirements-tpu.txt '
            '(it needs no TPU)'
        )
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    # A v4 or v5p chip has two cores that form one device; for v4 this has to be requested.
    options = {'chip_config_name': 'megacore'} if topology.startswith('v4') else {}
    devices = topologies.get_topology_desc(
        platform='tpu', topology_name=topology, **options
    ).devices
    count = math.prod(int(n) for n in topology.partition(':')[2].split('x'))
    assert len(devices) == count, (topology, len(devices))
    return devices
