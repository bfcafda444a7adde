"""Options of the mask that a run sets from its training images, before its first step."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import pipeline
from pgs.errors import UserError
from pgs.masking.calibration import Calibration
from pgs.masking.strategies import configured_calibration
from pgs.models import normalize_images
from pgs.run.data import Data
from pgs.utils import distributed
from pgs.utils.files import absolute

IMAGES = 1024  # the first ones of the run
CHUNK = 64  # images that are measured at once
STREAM = 2  # folded into the run's seed, so that these draws are independent of the masks


def with_calibration(config: ConfigDict, data: Data, workdir: str | os.PathLike) -> ConfigDict:
    """A copy of config with the options that its strategy calibrates; as it is if there are none.

    The values are part of the run's config.json. A run that is resumed takes them from there. Where
    several processes run the job, the primary calibrates, and all take its values.

    Args:
      config: as configs/base.py.
      data: of the run.
      workdir: of the run.

    Raises:
      UserError: as `configured_calibration` and Calibration.solve; an image that cannot be read.
    """
    image = config.model.image
    num_patches = (image.image_size // image.patch_size) ** 2
    calibration = configured_calibration(config.masking, image.patch_size, num_patches)
    if calibration is None:
        return config
    values = distributed.from_primary(
        lambda: kept_values(calibration, workdir) or calibrate(calibration, config, data)
    )
    config = config.copy_and_resolve_references()
    config.masking.update(values)
    return config


def kept_values(calibration: Calibration, workdir: str | os.PathLike) -> dict[str, float] | None:
    """The values of the run that the folder holds; None if it holds none."""
    path = absolute(workdir) / 'config.json'
    if not path.is_file():
        return None
    try:
        masking = json.loads(path.read_text())['masking']
        return {name: float(masking[name]) for name in calibration.options}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # workdir.prepare refuses the folder, and says why


def calibrate(calibration: Calibration, config: ConfigDict, data: Data) -> dict[str, float]:
    """Measures training images and solves for the values; prints them in one line."""
    rows = min(config.batch_size, IMAGES)
    count = -(-IMAGES // rows) * rows
    batches = pipeline.train_batches(
        data.train,
        seed=config.seed,
        batch_size=config.batch_size,
        start_step=0,
        total_steps=count // rows,
        image_size=config.model.image.image_size,
        context_length=config.model.text.context_length,
        crop_scale=config.data.crop_scale,
        scaled_decode=config.data.scaled_decode,
        rows=np.arange(rows),
    )
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), STREAM), count)
    measure = jax.jit(lambda keys, images: calibration.measure(keys, normalize_images(images)))
    parts: list[Any] = []
    for keys_step, batch in zip(keys.reshape(-1, rows), batches, strict=True):
        for start in range(0, rows, CHUNK):
            part = slice(start, start + CHUNK)
            parts.append(measure(keys_step[part], batch['images'][part]))
    try:
        values = calibration.solve(jnp.concatenate(parts))
    except UserError as error:
        raise UserError(f'calibration on the first {count} training images: {error}') from error
    found = ', '.join(f'masking.{name}={value:.5f}' for name, value in values.items())
    print(f'Calibrated on {count} training images: {found} for {calibration.goal}', flush=True)
    return values
