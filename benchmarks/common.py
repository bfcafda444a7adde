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

from configs import vitb16_pgs
from pgs import sharding
from pgs.masking import configured
from pgs.masking.strategies import selection_shape
from pgs.models import build_model
from pgs.optimizer import build_optimizer, build_schedule
from pgs.step import init_state, jit_train_step, make_train_step

logging.set_verbosity(logging.WARNING)

# name -> what it changes in config.masking
VARIANTS = {
    'none': {'strategy': 'none'},
    'random-0.5': {'strategy': 'random', 'mask_ratio': 0.5},
    'pgs-0.5': {'strategy': 'pgs', 'min_ratio': 0.5, 'max_ratio': 0.5},
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


def make_parts(config):
    """(model, optimizer, schedule, strategy) in float32."""
    schedule = build_schedule(config.optimizer, 1000)
    return (
        build_model(config.model, dtype=jnp.float32),
        build_optimizer(config.optimizer, schedule),
        schedule,
        configured(config.masking, config.model.image.patch_size),
    )


def compiled_step(config, mesh):
    """(compiled train step, fresh state, batch on the devices)."""
    model, optimizer, schedule, strategy = make_parts(config)
    step = make_train_step(model, optimizer, schedule, strategy, seed=0, total_steps=1000)
    state = init_state(model, optimizer, 0, mesh)
    batch = sharding.to_devices(mesh, random_batch(config))
    return jit_train_step(step, mesh).lower(state, batch).compile(), state, batch


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


def image_tokens(config) -> int:
    """Tokens that the image tower runs on: kept patches, padding too, and the class token."""
    image = config.model.image
    strategy = configured(config.masking, image.patch_size)
    selection = selection_shape(strategy, image.image_size, image.patch_size)
    return selection.keep_ids.shape[1] + 1


def step_flops(config) -> float:
    """FLOPs of the matrix products of one train step: forward, and twice that backward."""

    def tower(part, tokens):
        width, hidden = part.width, int(part.width * part.mlp_ratio)
        per_token = 4 * width * width + 2 * width * hidden + 2 * tokens * width
        return 2 * part.layers * tokens * per_token

    image, text = config.model.image, config.model.text
    patches = (image.image_size // image.patch_size) ** 2
    embedding = 2 * patches * image.patch_size**2 * 3 * image.width
    forward = tower(image, image_tokens(config)) + tower(text, text.context_length) + embedding
    return 3.0 * forward * config.batch_size


def machine() -> dict[str, str]:
    return {
        'device': f'{len(jax.devices())} x {jax.devices()[0].device_kind}',
        'processor': platform.processor() or platform.machine(),
        'jax': jax.__version__,
        'python': platform.python_version(),
    }


def write(path: str, result: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=2) + '\n')
    print(f'Written: {path}')
