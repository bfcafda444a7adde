"""Writes a model in one of three layouts, whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
from etils import epath
from safetensors.numpy import save_file

from pgs.convert import hugging_face, open_clip, open_clip_config, orbax_folder
from pgs.convert.load import (
    HF_WEIGHTS,
    METADATA_KEY,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    Checkpoint,
)
from pgs.errors import UserError
from pgs.utils.files import write_json


def check_out(out: str | os.PathLike) -> Path:
    """The folder to write, which must not hold anything yet.

    Raises:
      UserError: an address that is no local folder, a file, or a folder with content.
    """
    if '://' in os.fspath(out):
        raise UserError(f'--out={out} must be a folder of this machine: copy it there afterwards')
    folder = Path(os.path.abspath(Path(out).expanduser()))
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f'--out={out} holds files already: give a new folder')
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--out={out} is a file: give a new folder')
    return folder


def export(loaded: Checkpoint, kind: str, out: str | os.PathLike) -> list[str]:
    """Writes a model to a new folder.

    Args:
      loaded: with numpy parameters.
      kind: 'orbax', 'open_clip' or 'hf'.
      out: folder, absent or empty.

    Returns:
      The names of what was written.

    Raises:
      UserError: a folder that cannot be written; it is then as it was.
    """
    folder = check_out(out)
    partial = folder.with_name(f'{folder.name}.partial-{os.getpid()}')
    try:
        partial.mkdir(parents=True)
        WRITERS[kind](partial, loaded)
        names = sorted(path.name for path in partial.iterdir())
        partial.replace(folder)  # onto an empty folder too
    except OSError as error:
        raise UserError(f'cannot write --out={out} ({error.strerror or error})') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def write_open_clip(folder: Path, loaded: Checkpoint) -> None:
    card = open_clip_config.model_card(loaded.config)
    # The card goes into the file as well, which then says by itself what it is.
    metadata = {'format': 'pt', METADATA_KEY: json.dumps(card)}
    save(open_clip.from_params(loaded.params), folder / OPEN_CLIP_WEIGHTS[0], metadata)
    write_json(epath.Path(folder / OPEN_CLIP_CONFIG), card)


def write_hugging_face(folder: Path, loaded: Checkpoint) -> None:
    weights = hugging_face.from_open_clip(open_clip.from_params(loaded.params))
    save(weights, folder / HF_WEIGHTS[0], {'format': 'pt'})
    for name, content in hugging_face.configs(loaded.config).items():
        write_json(epath.Path(folder / name), content)


def write_orbax(folder: Path, loaded: Checkpoint) -> None:
    orbax_folder.write_folder(epath.Path(folder), loaded.params, loaded.config)


def save(weights: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    # safetensors writes the memory as it lies: a transposed view must be laid out first.
    laid_out = jax.tree.map(lambda w: np.asarray(w, np.float32, order='C'), weights)
    save_file(laid_out, path, metadata)


WRITERS = {'orbax': write_orbax, 'open_clip': write_open_clip, 'hf': write_hugging_face}
