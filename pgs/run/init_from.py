"""Starts a run from given weights (config.init_from), for instance a short phase without a mask."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from pgs.convert.integrity import checkpoint_steps
from pgs.convert.load import read
from pgs.convert.parameters import ARCHITECTURE_KEYS
from pgs.convert.positions import resize_image
from pgs.errors import UserError
from pgs.step import TrainState
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute

# Keys that may differ: positions are resampled, and the others do not change what is computed.
FREE = ('image.image_size', 'remat', 'text.tokens_per_pair')


def read_initial(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any] | None:
    """The parameters that a new run starts from, on the host; every process calls it.

    Args:
      config: as configs/base.py.
      workdir: of the run; if it holds a checkpoint, config.init_from is not read.

    Returns:
      The parameter tree of CLIP, float32 numpy; None if the run is resumed or starts from random
      numbers.

    Raises:
      UserError: weights that cannot be read, or of another architecture.
    """
    if not config.init_from or checkpoint_steps(absolute(workdir)):
        return None
    loaded = read(config.init_from)
    check_architecture(loaded.config, config.model, loaded.source)
    params = loaded.params
    old_size, size = loaded.config['image']['image_size'], config.model.image.image_size
    resampled = ''
    if size != old_size:
        params, _ = resize_image(params, loaded.config, size)
        resampled = f', positions resampled from {old_size} to {size} px'
    print_once(f'Weights from {loaded.source}{resampled}')
    return params


def check_architecture(architecture: Mapping[str, Any], settings: ConfigDict, source: str) -> None:
    """Raises UserError with the first key of config.model in which the weights differ.

    Args:
      architecture: of the weights, a mapping like config.model.
      settings: config.model.
      source: name of the weights in the message.
    """
    theirs = flatten_dict(architecture, sep='.')
    ours = flatten_dict({key: settings.to_dict()[key] for key in ARCHITECTURE_KEYS}, sep='.')
    for key, value in ours.items():
        if key in FREE or is_same(key, theirs.get(key), value, ours):
            continue
        raise UserError(
            f'config.model.{key} is {value}, but {theirs.get(key)} in {source}, which '
            'config.init_from names: set it to that value, or --config.model_from_weights=True to '
            'take all sizes from the weights'
        )


def is_same(key: str, theirs: Any, ours: Any, settings: Mapping[str, Any]) -> bool:
    """Equality; two mlp_ratio are equal if they give the same hidden width."""
    if key.endswith('.mlp_ratio') and theirs is not None:
        width = settings[key.replace('mlp_ratio', 'width')]
        return int(width * theirs) == int(width * ours)
    return theirs == ours


def place(state: TrainState, params: dict[str, Any]) -> TrainState:
    """The state with other parameters, sharded like its own: no device gets more than its shard.

    An EMA tower and an average of the parameters, if the state has them, start as copies of these.

    Args:
      state: fresh, on the mesh.
      params: the same tree, complete on every host.
    """

    def put(values: np.ndarray, like: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(
            like.shape, like.sharding, lambda index: np.asarray(values[index])
        )

    placed = jax.tree.map(put, params, state.params)
    ema, average = state.ema, state.average
    if ema is not None:
        ema = jax.tree.map(put, params['image_tower'], ema)
    if average is not None:
        average = jax.tree.map(put, params, average)
    return dataclasses.replace(state, params=placed, ema=ema, average=average)
