"""The data of a run, opened before anything is written."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline import pipeline, sources, text_masking, windowed
from input_pipeline.shard_cache import ShardCache
from pgs import sharding
from pgs.build import last_masked_step
from pgs.utils import distributed


class Data(NamedTuple):
    """The opened data of config.data; images are not read yet."""

    train: list[tuple[sources.Records, float]]  # with the weight of each source
    held_out: sources.Records | None
    pairs: int  # of all training sources
    mask_text: text_masking.TextMask  # of config.text_masking
    cache: ShardCache | None  # copies of shards, with config.data.shuffle='window'


def open_data(config: ConfigDict) -> Data:
    """Opens what config.data names; builds an embedded data set or word counts where absent."""

    def prepared() -> tuple[list[tuple[sources.Records, float]], text_masking.TextMask]:
        train = sources.open_train(config.data)
        return train, text_masking.configured(config.text_masking, [s for s, _ in train])

    train, mask_text = distributed.primary_first(prepared)
    pairs = sum(len(source) for source, _ in train)
    held_out = sources.open_held_out(config.data)
    cache = windowed.open_cache(config.data, [s for s, _ in train], held_out)
    if cache is not None and held_out is not None and windowed.is_copied(config.data, held_out):
        held_out = held_out.through(cache)
    return Data(train, held_out, pairs, mask_text, cache)


def check_window(config: ConfigDict, data: Data, mesh: Mesh) -> None:
    """Checks what config.data.shuffle='window' needs; no-op with another shuffle.

    Args:
      config: as configs/base.py, with total_steps.
      data: of the run.
      mesh: of the run.

    Raises:
      UserError: see `windowed.check_streams` and `windowed.check_disk`.
    """
    if config.data.shuffle == 'window':
        rows = sharding.rows_of_processes(mesh, config.batch_size)
        windowed.check_streams(config, rows)
        windowed.check_disk(config, data.train, data.held_out, rows[jax.process_index()])


def with_total_steps(config: ConfigDict, pairs: int) -> ConfigDict:
    """A copy of config whose total_steps is set: as given, or by epochs and the size of the data."""
    config = config.copy_and_resolve_references()
    if config.total_steps is None:
        config.total_steps = config.epochs * math.ceil(pairs / config.batch_size)
    return config


def is_smoke_test(config: ConfigDict, data: Data) -> bool:
    """Whether a run is shorter than one pass over the held-out pairs; its start is not scored."""
    return config.total_steps * config.batch_size < len(data.held_out or ())


def training_batches(
    config: ConfigDict, data: Data, start: int, rows: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """The batches from step `start` to the last one; see pipeline.train_batches.

    If captions are shortened to text_masking.context_length, this ends together with the mask of
    the images (masking.until): from then on captions are read as in evaluation.

    Args:
      config: as configs/base.py, with total_steps.
      data: of the run.
      start: number of steps that are done.
      rows: rows of the global batch that this process reads.
    """
    total, complete = config.total_steps, config.model.text.context_length
    short = text_masking.train_length(config)
    switch = last_masked_step(config, total) if short < complete else total
    train, order = data.train, None
    if config.data.shuffle == 'window':
        order = windowed.sampler_of(config, train, data.cache, rows, start)
        if data.cache is not None:
            train = [
                (s.through(data.cache) if windowed.is_copied(config.data, s) else s, weight)
                for s, weight in train
            ]
    try:
        for first, last, length, mask_text in (
            (start, switch, short, data.mask_text),
            (max(start, switch), total, complete, text_masking.truncate),
        ):
            if first < last:
                yield from pipeline.train_batches(
                    train,
                    seed=config.seed,
                    batch_size=config.batch_size,
                    start_step=first,
                    total_steps=last,
                    image_size=config.model.image.image_size,
                    context_length=length,
                    crop_scale=config.data.crop_scale,
                    scaled_decode=config.data.scaled_decode,
                    mask_text=mask_text,
                    rows=rows,
                    order=order,
                )
    finally:
        if data.cache is not None:
            data.cache.want([])  # the copies of the training shards are done with
