"""What the benchmarks share: a step to time, the machine's matmul peak, honest repetition."""

import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from benchmarks.plots import Panels, bars_figure
from configs import vitb16_pgs
from pgs import sharding
from pgs.build import Job, build
from pgs.compile import flops
from pgs.masking import configured
from pgs.masking.strategies import selection_shape
from pgs.models import normalize_images
from pgs.step import init_state, lower_train_step, make_init

logging.set_verbosity(logging.WARNING)

# name -> what it changes in config.masking
VARIANTS = {
    'none': {'strategy': 'none'},
    'random-0.5': {'strategy': 'random', 'mask_ratio': 0.5},
    'pgs-0.5': {'strategy': 'pgs', 'min_ratio': 0.5, 'max_ratio': 0.5},
    'pgs-0.3-padded': {'strategy': 'pgs', 'min_ratio': 0.3, 'max_ratio': 0.5, 'long_share': 1.0},
    'pgs-0.3': {'strategy': 'pgs', 'min_ratio': 0.3, 'max_ratio': 0.5},
}


def variant_config(name: str, batch_size: int):
    """ViT-B/16 as in the recipe, with one of VARIANTS."""
    config = vitb16_pgs.get_config()
    config.batch_size = batch_size
    config.masking.update(VARIANTS[name])
    return config


def random_batch(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, config.model.text.context_length
    return {
        'images': rng.integers(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8),
        'tokens': rng.integers(1, 49406, (config.batch_size, length)).astype(np.int32),
    }


def make_parts(config) -> Job:
    """The parts of the step, for the platform that JAX runs on."""
    return build(config, total_steps=1000, platform=jax.default_backend())


def compiled_step(config, state=None):
    """Compiles a train step over all devices.

    Args:
      config: with the batch size of the step.
      state: what a step of another variant returned, as all variants have the same parameters.
        None: a fresh one.

    Returns:
      (compiled, state, batch on the devices); compiled(state, batch) takes the state's memory.
    """
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    job = make_parts(config)
    state = init_state(job.model, job.optimizer, 0, mesh) if state is None else state
    batch = sharding.to_devices(mesh, random_batch(config))
    return lower_train_step(job.train_step, mesh, state, batch).compile(), state, batch


def selection_alone(config, batch):
    """The patch selection of a step by itself, compiled: () -> seconds, median of five."""
    strategy = make_parts(config).strategy
    image = config.model.image
    length = (image.image_size // image.patch_size) ** 2
    images = normalize_images(batch['images'])
    embeddings = jax.random.normal(jax.random.key(0), (config.batch_size, length, image.width))
    select = jax.jit(strategy)
    arguments = (jax.random.key(1), images, embeddings, jnp.float32(0.5))
    jax.block_until_ready(select(*arguments))
    return lambda: statistics.median(timed(lambda: select(*arguments)) for _ in range(5))


def peak_memory(compiled) -> float:
    """GiB that a compiled step needs on one device: state, batch, temporaries and results."""
    sizes = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (held + sizes.temp_size_in_bytes) / 2**30


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of the best float32 product of two square matrices."""
    product = jax.jit(lambda a: a @ a)
    a = jnp.ones((size, size)) / size
    product(a).block_until_ready()
    best = min(timed(lambda: product(a)) for _ in range(repeats))
    return 2 * size**3 / best


def timed(call) -> float:
    """Seconds until the result of call() is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {'median': statistics.median(seconds), 'min': min(seconds), 'max': max(seconds)}


def image_tokens(config) -> float:
    """Tokens of an image, mean: kept patches, padding too, and the class token."""
    image = config.model.image
    strategy = configured(config.masking, image.patch_size)
    selection = selection_shape(
        strategy, image.image_size, image.patch_size, batch=config.batch_size
    )
    return selection.mean_slots() + 1


def step_flops(config) -> int:
    """FLOPs of the matrix products of one train step, without what remat computes again."""
    config = config.copy_and_resolve_references()
    config.model.remat = 'none'
    job = make_parts(config)
    state = jax.eval_shape(make_init(job.model, job.optimizer, 0))
    return flops.flops_of(job.train_step, state, random_batch(config))


def machine() -> dict[str, str]:
    return {
        'device': f'{len(jax.devices())} x {jax.devices()[0].device_kind}',
        'processor': platform.processor() or platform.machine(),
        'jax': jax.__version__,
        'python': platform.python_version(),
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return '\n'.join(
        '  '.join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    )


def write(path: str, result: dict, panels: Panels) -> None:
    """The figures as JSON, and beside it the panels as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + '\n')
    picture = path.with_suffix('.png')
    bars_figure(panels).savefig(picture, dpi=150)
    print(f'Written: {path} and {picture}')
