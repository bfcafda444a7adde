"""Shared by the benchmarks: variants, a step to time, the machine's matmul peak, output files."""

import functools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.plots import Panels, Spread, bars_figure
from configs import vitb16_clip, vitb16_flip, vitb16_pgs
from input_pipeline.text_masking import train_length
from input_pipeline.tokenizer import END_OF_TEXT, START_OF_TEXT
from pgs import sharding
from pgs.build import Job, build, compute_dtype
from pgs.compile.aot import configured_selection
from pgs.compile.flops import flops_of
from pgs.errors import UserError
from pgs.masking.attention import scorer_settings
from pgs.models import normalize_images
from pgs.models.class_attention import make_scorer
from pgs.step import TrainState, init_state, lower_train_step, make_init
from pgs.utils.files import write_json, writing


def padded_pgs() -> ConfigDict:
    """PGS-0.3 with slots for the least masked image in every image, without a token budget."""
    config = vitb16_pgs.get_config('0.3')
    config.masking.long_share = 1.0
    return config


# name for --variants -> config
VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    'none': vitb16_clip.get_config,
    'random-0.5': vitb16_flip.get_config,
    'pgs-0.5': functools.partial(vitb16_pgs.get_config, '0.5'),
    'pgs-0.3-padded': padded_pgs,
    'pgs-0.3': functools.partial(vitb16_pgs.get_config, '0.3'),
}


def variant_config(name: str, batch_size: int) -> ConfigDict:
    """The config of one of VARIANTS, with another batch size.

    Raises:
      UserError: an unknown name.
    """
    if name not in VARIANTS:
        raise UserError(f'--variants={name} is unknown: take some of {", ".join(VARIANTS)}')
    config = VARIANTS[name]()
    config.batch_size = batch_size
    return config


def random_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """Random images uint8 (B, H, W, 3), and captions of random tokens int32 (B, T)."""
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, train_length(config)
    images = rng.integers(0, 256, (config.batch_size, size, size, 3)).astype(np.uint8)
    tokens = rng.integers(1, START_OF_TEXT, (config.batch_size, length)).astype(np.int32)
    last_Bx1 = caption_lengths(rng, config.batch_size, length)[:, None] - 1
    places = np.arange(length)
    tokens = np.where(places < last_Bx1, tokens, 0)
    tokens[:, 0] = START_OF_TEXT
    return {'images': images, 'tokens': np.where(places == last_Bx1, END_OF_TEXT, tokens)}


def caption_lengths(rng: np.random.Generator, count: int, longest: int) -> np.ndarray:
    """Tokens of captions as long as CC12M's, with start and end: int (count,), 26 on average.

    CC12M states 20.2 words a caption with a deviation of 16.3 (Changpinyo et al., arXiv 2102.08981);
    CLIP's tokenizer makes about 1.2 tokens of a word. Drawn from a gamma distribution with these two.
    """
    mean, deviation = 1.2 * 20.2, 1.2 * 16.3
    words = rng.gamma((mean / deviation) ** 2, deviation**2 / mean, count)
    return np.clip(2 + np.round(words).astype(np.int32), 3, longest)


def build_job(config: ConfigDict) -> Job:
    """The parts of the train step, for the platform that JAX runs on."""
    return build(config, total_steps=1000, platform=jax.default_backend())


def compiled_step(
    config: ConfigDict, state: TrainState | None = None
) -> tuple[jax.stages.Compiled, TrainState, dict[str, jax.Array]]:
    """Compiles a train step over all devices.

    Args:
      config: with the batch size of the step.
      state: the state that a step of another variant returned, since all variants have the same
        parameters; None: a fresh one.

    Returns:
      (compiled, state, batch on the devices); compiled(state, batch) donates the state.
    """
    mesh = sharding.make_mesh(config.mesh, config.batch_size)
    job = build_job(config)
    if state is None:
        state = init_state(job.model, job.optimizer, 0, mesh, job.strategy)
    batch = sharding.to_devices(mesh, random_batch(config))
    return lower_train_step(job.train_step, mesh, state, batch).compile(), state, batch


def selection_timer(config: ConfigDict, batch: dict[str, jax.Array]) -> Callable[[], float]:
    """Compiles the patch selection of a step; () -> its seconds, the median of five runs.

    If the strategy asks for an attention map, it is computed as well, by a fresh image tower.
    """
    job = build_job(config)
    strategy, tower = job.strategy, None
    if scorer_settings(strategy) is not None:
        create = make_init(job.model, job.optimizer, 0)
        tower = jax.jit(lambda: create().params['image_tower'])()
    score = make_scorer(strategy, job.model.image)
    image = config.model.image
    length = (image.image_size // image.patch_size) ** 2
    images = normalize_images(batch['images'])
    embeddings = jax.random.normal(jax.random.key(0), (config.batch_size, length, image.width))
    select = jax.jit(lambda tower, rng, *rest: strategy(rng, *rest, **score(tower, rest[0])))
    arguments = (tower, jax.random.key(1), images, embeddings, jnp.float32(0.5))
    jax.block_until_ready(select(*arguments))
    return lambda: statistics.median(timed(lambda: select(*arguments)) for _ in range(5))


def peak_memory(compiled: jax.stages.Compiled) -> float:
    """GiB that a compiled step needs on one device: state, batch, temporaries and results."""
    sizes = compiled.memory_analysis()
    assert sizes is not None
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (held + sizes.temp_size_in_bytes) / 2**30


def matmul_peak(repeats: int = 8) -> float:
    """FLOP/s of the fastest of several products of two square matrices, in the dtype of the step."""
    backend = jax.default_backend()
    size = 2048 if backend == 'cpu' else 8192
    dtype = compute_dtype('auto', backend)
    product = jax.jit(lambda a: a @ a)
    # Random: some chips multiply constants faster, since they draw less power.
    a = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype)
    product(a).block_until_ready()
    best = min(timed(lambda: product(a)) for _ in range(repeats))
    return 2 * size**3 / best


def timed(call: Callable[[], Any]) -> float:
    """Seconds until the result of call() is computed."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def spread(values: list[float]) -> Spread:
    """Median, smallest and largest."""
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


def ratio(values: list[float], others: list[float]) -> Spread:
    """Spread of the ratios of two measurements, round by round."""
    return spread([a / b for a, b in zip(values, others, strict=True)])


def spread_line(name: str, values: Spread, digits: int) -> str:
    """'NAME  MEDIAN  (SMALLEST to LARGEST)', aligned with other such lines."""
    low, middle, high = (f'{values[k]:.{digits}f}' for k in ('min', 'median', 'max'))
    return f'{name:<28} {middle:>8}  ({low} to {high})'


def image_tokens(config: ConfigDict) -> float:
    """Mean number of tokens of an image: kept patches, padding and the class token."""
    selection, _ = configured_selection(config)
    return selection.mean_slots() + 1


def step_flops(config: ConfigDict) -> int:
    """FLOPs of the matrix products of one train step, without those that remat repeats."""
    config = config.copy_and_resolve_references()
    config.model.remat = 'none'
    job = build_job(config)
    state = jax.eval_shape(make_init(job.model, job.optimizer, 0, job.strategy))
    return flops_of(job.train_step, state, random_batch(config))


def machine() -> dict[str, str]:
    """The machine and the versions that a measurement ran on."""
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


def write(path: str, result: dict[str, Any], panels: Panels) -> None:
    """Writes a result as JSON, and its panels as PNG beside it.

    Raises:
      UserError: a path that cannot be written.
    """
    figure = Path(path).with_suffix('.png')
    with writing(f'--out={path}'):
        figure.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        bars_figure(panels).savefig(figure, dpi=150)
    print(f'Written: {path} and {figure}')
