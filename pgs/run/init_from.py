"""A run that starts from given weights (config.init_from), as for a short unmasked phase."""

import os
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from orbax.checkpoint.utils import checkpoint_steps

from pgs.convert.load import read
from pgs.convert.parameters import KEYS
from pgs.convert.positions import resize_image
from pgs.errors import UserError
from pgs.step import TrainState
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute

FREE = ('image.image_size', 'remat')  # positions are resampled; remat computes the same


def read_initial(config, workdir: str | os.PathLike) -> dict[str, Any] | None:
    """The parameters that a new run starts from, on the host; every process calls it.

    Args:
      config: as configs/base.py.
      workdir: of the run; where it holds a checkpoint, config.init_from is not even read.

    Returns:
      The tree of CLIP, float32 numpy, for config.model; None where the run is resumed or starts
      from random numbers.

    Raises:
      UserError: weights that cannot be read, or of another architecture.
    """
    checkpoints = absolute(workdir) / 'checkpoints'
    if not config.init_from or (checkpoints.is_dir() and checkpoint_steps(checkpoints)):
        return None
    loaded = read(config.init_from)
    check_architecture(loaded.config, config.model, loaded.source)
    params, described = loaded.params, loaded.config
    before, size = described['image']['image_size'], config.model.image.image_size
    resampled = ''
    if size != before:
        params, _ = resize_image(params, described, size)
        resampled = f', positions resampled from {before} to {size} px'
    print_once(f'Weights from {loaded.source}{resampled}')
    return params


def check_architecture(described: dict, model_config, source: str) -> None:
    """Raises UserError naming the first key of config.model that the weights contradict."""
    theirs = flatten_dict(described, sep='.')
    ours = flatten_dict({key: to_dict(model_config[key]) for key in KEYS}, sep='.')
    for key, value in ours.items():
        if key in FREE or same(key, theirs.get(key), value, ours):
            continue
        raise UserError(
            f'config.model.{key} is {value}, but {theirs.get(key)} in {source}, which '
            'config.init_from names: set it so, or take other weights'
        )


def same(key: str, theirs, ours, flat: dict) -> bool:
    """Equality; of mlp_ratio, by the hidden width that it gives."""
    if key.endswith('.mlp_ratio') and theirs is not None:
        width = flat[key.replace('mlp_ratio', 'width')]
        return int(width * theirs) == int(width * ours)
    return theirs == ours


def to_dict(value):
    return value.to_dict() if hasattr(value, 'to_dict') else value


def place(state: TrainState, params: dict) -> TrainState:
    """The state with other parameters, laid out as its own: no device holds more than its part.

    Args:
      state: fresh, on the mesh.
      params: the same tree, whole, on every host.
    """

    def put(values: np.ndarray, like: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(
            like.shape, like.sharding, lambda i: np.asarray(values[i])
        )

    return state.replace(params=jax.tree.map(put, params, state.params))
