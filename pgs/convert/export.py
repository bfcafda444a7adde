"""Writes a model in one of three layouts, with its card, completely or not at all."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from pgs.convert import hugging_face, open_clip, open_clip_config, orbax_folder
from pgs.convert.card import LIBRARIES, Facts, write_card
from pgs.convert.load import HF_WEIGHTS, Checkpoint
from pgs.convert.open_clip import METADATA_KEY, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from pgs.errors import UserError
from pgs.utils.files import absolute, write_json, writing


def check_out(out: str | os.PathLike) -> Path:
    """The folder to write, which must be absent or empty.

    Raises:
      UserError: an address that is not a local folder, a file, or a folder that is not empty.
    """
    if '://' in os.fspath(out):
        raise UserError(f'--out={out} must be a local folder: copy it there afterwards')
    folder = Path(absolute(out))
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f'--out={out} holds files already: give a new folder')
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--out={out} is a file: give a new folder')
    return folder


def export(
    loaded: Checkpoint, kind: str, out: str | os.PathLike, facts: Facts | None = None
) -> list[str]:
    """Writes a model to a new folder.

    Args:
      loaded: the model, with numpy parameters.
      kind: 'orbax', 'open_clip' or 'hf'.
      out: folder, absent or empty.
      facts: for the model card of 'open_clip' and 'hf'; see card.read_facts.

    Returns:
      The names of the files and folders that were written.

    Raises:
      UserError: a folder that cannot be written; it is left as it was.
    """
    folder = check_out(out)
    partial = folder.with_name(f'{folder.name}.partial-{os.getpid()}')
    try:
        with writing(f'--out={out}', 'give another folder'):
            partial.mkdir(parents=True)
            WRITERS[kind](partial, loaded)
            if kind in LIBRARIES:
                card = write_card(folder.name, kind, loaded, facts or Facts())
                (partial / 'README.md').write_text(card, encoding='utf-8')
            names = sorted(path.name for path in partial.iterdir())
            partial.replace(folder)  # also replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def write_open_clip(folder: Path, loaded: Checkpoint) -> None:
    """OpenCLIP's weights and model JSON. The weights file holds the JSON too, as metadata."""
    card = open_clip_config.model_card(loaded.config)
    metadata = {'format': 'pt', METADATA_KEY: json.dumps(card)}
    save(open_clip.from_params(loaded.params), folder / OPEN_CLIP_WEIGHTS[0], metadata)
    write_json(folder / OPEN_CLIP_CONFIG, card)


def write_hugging_face(folder: Path, loaded: Checkpoint) -> None:
    """Weights and JSON files of a CLIPModel."""
    weights = hugging_face.from_open_clip(open_clip.from_params(loaded.params))
    save(weights, folder / HF_WEIGHTS[0], {'format': 'pt'})
    for name, content in hugging_face.configs(loaded.config).items():
        write_json(folder / name, content)


def write_orbax(folder: Path, loaded: Checkpoint) -> None:
    """Parameters by Orbax and config.json."""
    orbax_folder.write_folder(folder, loaded.params, loaded.config)


def save(weights: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    """Writes a safetensors file in float32."""
    # safetensors writes the raw buffer, so a transposed view must become contiguous first.
    contiguous = jax.tree.map(lambda w: np.asarray(w, np.float32, order='C'), weights)
    save_file(contiguous, path, metadata)


WRITERS = {'orbax': write_orbax, 'open_clip': write_open_clip, 'hf': write_hugging_face}
