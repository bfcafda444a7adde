"""The train step compiled ahead of time for a TPU slice, and a report of its memory and time."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.text_masking import train_length
from pgs import sharding
from pgs.build import build, check_config
from pgs.compile.estimate import estimate
from pgs.compile.flops import matmul_flops
from pgs.compile.topology import chip_of, devices_of
from pgs.compile.traffic import step_traffic
from pgs.masking import PatchSelection, configured
from pgs.masking.strategies import label, selection_shape
from pgs.step import TrainState, jit_train_step, make_init

GIB = 2**30
UNITS = {'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}  # of the compiler's messages
# JAX's persistent cache keeps programs that take longer to compile. JAX 0.12 cannot read those for a
# TPU that is not attached.
NOT_KEPT = {'jax_persistent_cache_min_compile_time_secs': math.inf}

Report = dict[str, Any]  # plain values for JSON; bytes of one device, FLOPs of all devices


class TooBig(Exception):
    """The step needs more memory than a chip has.

    Attributes:
      report: what is known without a compiled step, with needed_bytes.
    """

    def __init__(self, report: Report):
        super().__init__(report)
        self.report = report


def compile_step(config: ConfigDict, topology: str) -> Report:
    """Compiles the train step of a config.

    Args:
      config: as configs/base.py.
      topology: a name of TOPOLOGIES, such as 'v5e:8x8'.

    Returns:
      Memory of one device in bytes, FLOPs of one step over all devices, and estimates.

    Raises:
      UserError: an invalid config, an unknown topology, or no libtpu.
      TooBig: the step needs more memory than a chip has.
    """
    devices, chip = devices_of(topology), chip_of(topology)
    check_config(config, devices=len(devices), platform='tpu')
    mesh = sharding.make_mesh(config.mesh, config.batch_size, devices)
    job = build(config, total_steps=1000, platform='tpu')
    averaged = config.weights_ema > 0.0
    create = make_init(job.model, job.optimizer, config.seed, job.strategy, averaged=averaged)
    state = jax.eval_shape(create)
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        train_step = jit_train_step(job.train_step, mesh, state)
        traced = train_step.trace(state, batch_shapes(config))
        lowered = traced.lower()
    report = describe(config, topology, mesh) | {
        'flops': matmul_flops(traced.jaxpr, 'tpu'),
        'state_bytes': state_bytes(mesh, state),
        'capacity_bytes': int(chip.memory),
    }
    try:
        with jax_settings(NOT_KEPT):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = memory_needed(str(error), report['state_bytes'])
        if needed is None:
            raise
        report['needed_bytes'], report['capacity_bytes'] = needed
        raise TooBig(report) from error
    traffic = step_traffic(compiled.as_text(), mesh.shape)
    report['compile_seconds'] = time.perf_counter() - start
    report |= memory_sizes(compiled) | {
        'memory_traffic_bytes': traffic.memory_bytes,
        'selection_traffic_bytes': traffic.selection_bytes,
        'collectives': [dataclasses.asdict(c) for c in traffic.collectives],
    }
    return report | estimate(report, traffic, mesh, chip)


@contextlib.contextmanager
def jax_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Settings of JAX within the block; those from before come back at its end."""
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def memory_sizes(compiled: jax.stages.Compiled) -> Report:
    """Bytes of one device that a compiled step needs, by kind."""
    memory = compiled.memory_analysis()
    assert memory is not None  # XLA's TPU compiler always gives it
    return {
        'argument_bytes': memory.argument_size_in_bytes,
        'output_bytes': memory.output_size_in_bytes - memory.alias_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
        'code_bytes': memory.generated_code_size_in_bytes,
    }


def memory_needed(message: str, state: int) -> tuple[int, int] | None:
    """(bytes needed, bytes available), by the compiler's error message.

    Args:
      message: of the compiler. Some messages give the temporaries only.
      state: bytes of the state, which are added to temporaries.

    Returns:
      None for a message about something else.
    """
    number = r'([\d.]+)([KMGT])'
    total = re.search(rf'Used {number} of {number}', message)
    temporaries = re.search(rf'\({number}\) exceeds? available HBM \({number}\)', message)
    match = total or temporaries
    if match is None:
        return None
    needed, available = (int(float(match[i]) * UNITS[match[i + 1]]) for i in (1, 3))
    return needed + (0 if total else state), available


def state_bytes(mesh: Mesh, state: TrainState) -> int:
    """Bytes of a state on each device."""
    shardings = jax.tree.leaves(sharding.state_sharding(mesh, state))
    return sum(
        math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
        for x, s in zip(jax.tree.leaves(state), shardings, strict=True)
    )


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a global batch while images are masked."""
    size, length = config.model.image.image_size, train_length(config)
    return {
        'images': jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8),
        'tokens': jax.ShapeDtypeStruct((config.batch_size, length), jnp.int32),
    }


def describe(config: ConfigDict, topology: str, mesh: Mesh) -> Report:
    """The settings that a step was compiled with."""
    selection, num_patches = configured_selection(config)
    return {
        'topology': topology,
        'devices': mesh.size,
        'mesh': dict(mesh.shape),
        'batch_size': config.batch_size,
        'batch_per_device': config.batch_size // mesh.size,
        'strategy': label(config.masking.strategy, selection, num_patches),
        'remat': config.model.remat,
        'unroll': config.model.unroll,
        'microbatches': config.microbatches,
    }


def configured_selection(config: ConfigDict) -> tuple[PatchSelection, int]:
    """(shapes of the selection of a batch, number of patches of an image)."""
    image = config.model.image
    strategy = configured(config.masking, image.patch_size)
    selection = selection_shape(strategy, image.image_size, image.patch_size, config.batch_size)
    return selection, (image.image_size // image.patch_size) ** 2


def masks_nothing(config: ConfigDict) -> bool:
    """Whether the strategy of a config keeps all patches, as the unmasked baseline does."""
    selection, num_patches = configured_selection(config)
    return selection.masked_range(num_patches) == (0, 0)
