"""Estimated time of a compiled step on a TPU slice."""

import math
from typing import Any

from jax.sharding import Mesh

from pgs.compile.topology import Chip
from pgs.compile.traffic import Traffic

PAPER_PAIRS = 32 * 10_968_539  # epochs times pairs of the paper's CC12M


def estimate(report: dict[str, Any], traffic: Traffic, mesh: Mesh, chip: Chip) -> dict[str, Any]:
    """Seconds of a step by published peaks, and by the compiler's own count of cycles.

    The roofline is a lower bound: matrix products at the chip's peak or memory traffic at its full
    bandwidth, whichever takes longer, plus the collectives as rings at full speed, which do not
    overlap with computation. The compiler counts no cycles within a Pallas kernel, for which its own
    roofline is added to the cycles.

    Args:
      report: with flops, of a step over all devices, and batch_size.
      traffic: of one device.
      mesh: the devices.
      chip: their published figures.

    Returns:
      Seconds of the parts (part_seconds by cycles) and of a step, and what follows from them for the
      paper's run.
    """
    wires = wire_seconds(traffic, mesh, chip)
    compute = report['flops'] / mesh.size / chip.flops
    memory = traffic.memory_bytes / chip.bandwidth
    roofline = max(compute, memory) + wires
    parts = {part: cycles / chip.clock for part, cycles in traffic.cycles.items()}
    cycles = sum(parts.values())
    kernels = max(traffic.kernel_flops / chip.flops, traffic.kernel_bytes / chip.bandwidth)
    seconds = max(roofline, cycles + kernels + wires)
    return {
        'compute_seconds': compute,
        'memory_seconds': memory,
        'wire_seconds': wires,
        'roofline_seconds': roofline,
        'cycle_seconds': cycles,
        'part_seconds': parts,
        'kernel_seconds': kernels,
        'estimated_seconds': seconds,
        'pairs_per_second': report['batch_size'] / seconds,
        'paper_days': PAPER_PAIRS / report['batch_size'] * seconds / 86400,
        'chip_hours': PAPER_PAIRS / report['batch_size'] * seconds / 3600 * mesh.size,
    }


def wire_seconds(traffic: Traffic, mesh: Mesh, chip: Chip) -> float:
    """Seconds of all collectives of a step, as rings at full speed.

    A ring of n devices sends (n - 1) / n of a collective's bytes; an all-reduce does so twice.
    """
    seconds = 0.0
    for c in traffic.collectives:
        axes = c.axis.split(' x ')
        known = all(axis in mesh.shape for axis in axes)
        n = math.prod(mesh.shape[axis] for axis in axes) if known else mesh.size
        rounds = 2 if c.kind == 'all-reduce' else 1
        seconds += rounds * c.bytes * (n - 1) / n / chip.wires
    return seconds
