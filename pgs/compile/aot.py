"""The train step compiled ahead of time for a slice, and what that says of memory and time."""

import math
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pgs import sharding
from pgs.build import build
from pgs.compile import flops, hlo
from pgs.compile.topology import chip_of, devices_of
from pgs.errors import UserError
from pgs.step import check_microbatches, jit_train_step, make_init

PAPER_PAIRS = 32 * 10_968_539  # epochs times pairs of the paper's CC12M
GIB = 2**30


class TooBig(Exception):
    """The step needs more memory than a chip has; holds what is known of it."""

    def __init__(self, report: dict):
        super().__init__(report)
        self.report = report


def state_bytes(mesh, state) -> int:
    """Bytes of a state on each device."""
    parts = zip(
        jax.tree.leaves(state), jax.tree.leaves(sharding.state_sharding(mesh, state)), strict=True
    )
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in parts)


def compile_step(config, topology: str) -> dict:
    """Compiles the step that a config describes.

    Args:
      config: as configs/base.py.
      topology: a name in TOPOLOGIES.

    Returns:
      Plain figures: bytes on one device, FLOPs of one step over all devices, estimates.

    Raises:
      UserError: a config or topology that cannot be.
      TooBig: more memory than a chip has.
    """
    devices, chip = devices_of(topology), chip_of(topology)
    mesh = sharding.make_mesh(config.mesh, config.batch_size, devices)
    check_microbatches(config, mesh.size)
    job = build(config, total_steps=1000, platform='tpu')
    state = jax.eval_shape(make_init(job.model, job.optimizer, config.seed))
    size, length = config.model.image.image_size, config.model.text.context_length
    batch = {
        'images': jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8),
        'tokens': jax.ShapeDtypeStruct((config.batch_size, length), jnp.int32),
    }
    clock = time.perf_counter()
    with jax.set_mesh(mesh):
        traced = jit_train_step(job.train_step, mesh, state).trace(state, batch)
        lowered = traced.lower()
    masking = config.masking
    ratios = f' {masking.min_ratio:g}-{masking.max_ratio:g}' if masking.strategy == 'pgs' else ''
    ratios = f' {masking.mask_ratio:g}' if masking.strategy == 'random' else ratios
    report = {
        'topology': topology,
        'devices': mesh.size,
        'mesh': dict(mesh.shape),
        'batch_size': config.batch_size,
        'batch_per_device': config.batch_size // mesh.size,
        'strategy': masking.strategy + ratios,
        'remat': config.model.remat,
        'microbatches': config.microbatches,
        'flops': flops.matmul_flops(traced.jaxpr),
        'state_bytes': state_bytes(mesh, state),
        'capacity_bytes': int(chip.memory),
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = memory_needed(str(error), report['state_bytes'])
        if needed is None:
            raise
        report['needed_bytes'], report['capacity_bytes'] = needed
        raise TooBig(report) from error
    memory = compiled.memory_analysis()
    traffic = hlo.traffic(compiled.as_text(), **mesh.shape)
    report |= {
        'compile_seconds': time.perf_counter() - clock,
        'argument_bytes': memory.argument_size_in_bytes,
        'output_bytes': memory.output_size_in_bytes - memory.alias_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
        'code_bytes': memory.generated_code_size_in_bytes,
        'memory_traffic_bytes': traffic.memory_bytes,
        'selection_traffic_bytes': traffic.selection_bytes,
        'collectives': [c._asdict() for c in traffic.collectives],
    }
    return report | estimate(report, traffic, mesh, chip)


def memory_needed(message: str, state: int) -> tuple[int, int] | None:
    """(bytes needed, bytes there) from the compiler's refusal; None where it is about another thing."""
    unit = {'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}
    number = r'([\d.]+)([KMGT])'
    whole = re.search(rf'Used {number} of {number}', message)
    temporaries = re.search(rf'\({number}\) exceeds? available HBM \({number}\)', message)
    found = whole or temporaries
    if found is None:
        return None
    needed, there = (int(float(found[i]) * unit[found[i + 1]]) for i in (1, 3))
    return needed + (0 if whole else state), there


def estimate(report: dict, traffic: hlo.Traffic, mesh, chip) -> dict:
    """Seconds of a step by published peaks, and by the compiler's own count of cycles.

    The roofline is a floor: products at the chip's peak or memory at its full bandwidth, whichever
    takes longer, then the collectives as rings at full speed and hidden behind nothing.
    """
    lengths = {'data': mesh.shape['data'], 'fsdp': mesh.shape['fsdp']}
    wires = 0.0
    for c in traffic.collectives:
        n = lengths.get(c.axis, mesh.size)
        rounds = 2 if c.kind == 'all-reduce' else 1
        wires += rounds * c.bytes * (n - 1) / n / chip.wires
    compute = report['flops'] / mesh.size / chip.flops
    memory = traffic.memory_bytes / chip.bandwidth
    roofline = max(compute, memory) + wires
    cycles = traffic.cycles / chip.clock
    seconds = max(roofline, cycles + wires)
    return {
        'compute_seconds': compute,
        'memory_seconds': memory,
        'wire_seconds': wires,
        'roofline_seconds': roofline,
        'cycle_seconds': cycles,
        'estimated_seconds': seconds,
        'selection_cycle_share': traffic.selection_cycles / max(traffic.cycles, 1),
        'pairs_per_second': report['batch_size'] / seconds,
        'paper_days': PAPER_PAIRS / report['batch_size'] * seconds / 86400,
        'chip_hours': PAPER_PAIRS / report['batch_size'] * seconds / 3600 * mesh.size,
    }


def too_big_line(report: dict) -> str:
    """By how much it does not fit, and what should help, by the sizes that are known."""
    over = report['needed_bytes'] - report['capacity_bytes']
    state = report['state_bytes']
    temporaries = report['needed_bytes'] - state
    advice = []
    if enough := fitting_microbatches(report):
        advice.append(f'--config.microbatches={enough[0]}')
    if report['remat'] != 'full':
        names = "'dots' or 'full'" if report['remat'] == 'none' else "'full'"
        advice.append(f'--config.model.remat={names}')
    fsdp = report['mesh']['fsdp']
    if fsdp < report['devices']:
        saved = state * (1 - fsdp / report['devices'])
        advice.append(f'--config.mesh.fsdp=N (spares up to {saved / GIB:.1f} GiB)')
    return (
        f'does not fit: needs {report["needed_bytes"] / GIB:.2f} GiB a device, '
        f'{over / GIB:.2f} GiB more than the {report["capacity_bytes"] / GIB:.2f} GiB of '
        f'{report["topology"].split(":")[0]} (state {state / GIB:.2f}, the rest about '
        f'{temporaries / GIB:.2f}); should help, one or together: {", ".join(advice)}. '
        '--suggest tries them'
    )


def fitting_microbatches(report: dict) -> list[int]:
    """Numbers of microbatches that should fit, if temporaries shrink with what runs at one time."""
    temporaries = report['needed_bytes'] - report['state_bytes']
    room = report['capacity_bytes'] - report['state_bytes']
    local, now = report['batch_per_device'], report['microbatches']
    divisors = [n for n in range(now + 1, local + 1) if local % n == 0]
    return [n for n in divisors if temporaries * now / n < 0.9 * room]


def suggestions(config, report: dict):
    """Settings to try, cheapest in time first: (flags, config)."""
    parts = fitting_microbatches(report)[:2] or [report['batch_per_device']]
    dots = {'model.remat': 'dots'} if report['remat'] == 'none' else {}
    tries = [dots] if dots else []
    tries += [dots | {'microbatches': n} for n in parts]
    tries += [{'model.remat': 'full'}, *({'model.remat': 'full', 'microbatches': n} for n in parts)]
    every = {'model.remat': 'full', 'microbatches': report['batch_per_device']}
    tries.append(every | {'mesh.data': 1, 'mesh.fsdp': report['devices']})
    for changes in tries:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        yield ' '.join(f'--config.{k}={v}' for k, v in changes.items()), changed


def fit(config, topology: str, say: Callable[[str], None]) -> dict:
    """Compiles a step; where it does not fit, tries settings until one does.

    Raises:
      TooBig: nothing fits.
    """
    try:
        return compile_step(config, topology)
    except TooBig as error:
        first = last = error
        say(too_big_line(error.report).split('; should')[0])
    for words, trial in suggestions(config, first.report):
        say(f'Trying {words} ...')
        try:
            report = compile_step(trial, topology)
        except TooBig as error:
            last = error
            continue
        except UserError as error:
            say(f'  not possible: {error}')
            continue
        say(f'Fits with {words}')
        return report | {'suggestion': words}
    raise last
