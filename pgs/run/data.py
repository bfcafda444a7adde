"""The data of a run, opened before anything is written."""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from input_pipeline import sources
from pgs.utils import distributed


class Data(NamedTuple):
    """The opened data of config.data; images are not read yet."""

    train: list[tuple[sources.Records, float]]  # with the weight of each source
    held_out: sources.Records | None
    pairs: int  # of all training sources


def open_data(data_config: ConfigDict) -> Data:
    """Opens what config.data names; the embedded data set is built where it is absent."""
    train_sources = distributed.primary_first(lambda: sources.open_train(data_config))
    pairs = sum(len(source) for source, _ in train_sources)
    return Data(train_sources, sources.open_held_out(data_config), pairs)


def with_total_steps(config: ConfigDict, pairs: int) -> ConfigDict:
    """A copy of config whose total_steps is set: as given, or by epochs and the size of the data."""
    config = config.copy_and_resolve_references()
    if config.total_steps is None:
        config.total_steps = config.epochs * math.ceil(pairs / config.batch_size)
    return config


def is_smoke_test(config: ConfigDict, data: Data) -> bool:
    """Whether a run is shorter than one pass over the held-out pairs; its start is not scored."""
    return config.total_steps * config.batch_size < len(data.held_out or ())
