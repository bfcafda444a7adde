"""load_model(path): any kind of weights, as a model, its parameters and what config.model says."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from safetensors import safe_open

from pgs.convert import hugging_face, open_clip, open_clip_config, orbax_folder
from pgs.convert.parameters import layout_of
from pgs.convert.positions import resize_image
from pgs.convert.tensors import SUFFIXES, check_tensors, read_tensors
from pgs.errors import UserError
from pgs.models.clip import CLIP, build_model

CLIP_VOCABULARY = 49408
OPEN_CLIP_CONFIG = 'open_clip_config.json'
OPEN_CLIP_WEIGHTS = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
HF_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')
METADATA_KEY = 'open_clip_config'  # of our own safetensors: the card, so that a file alone will do
KINDS = ('open_clip', 'hf', 'orbax')
ACCEPTED = (
    'a workdir of main.py, a folder of python -m pgs.convert, an OpenCLIP file '
    f'({", ".join(SUFFIXES)}), a folder with {OPEN_CLIP_CONFIG}, or a CLIPModel folder of Hugging Face'
)


class Checkpoint(NamedTuple):
    """A model and its weights; see load_model."""

    model: CLIP
    params: dict
    config: dict
    source: str


def load_model(
    path: str | os.PathLike,
    *,
    model_config: str | os.PathLike | None = None,
    image_size: int | None = None,
    dtype: Any = jnp.float32,
) -> Checkpoint:
    """Reads a model of any kind that this project, OpenCLIP or Hugging Face writes.

    Args:
      path: a workdir of main.py (its newest checkpoint; gs:// too), a folder of
        `python -m pgs.convert`, an OpenCLIP file or folder, or a CLIPModel folder.
      model_config: OpenCLIP's model JSON, for an OpenCLIP file that has none beside it.
      image_size: pixels; position embeddings are resampled where it is not the model's own.
      dtype: of the computation.

    Returns:
      Checkpoint: model; params, the float32 tree that model.apply takes; config, what
      config.model holds (embed_dim, image, text, remat, quick_gelu); source, for people.

    Raises:
      UserError: another kind of path, weights that are damaged or do not fit their config, a
        setting that the towers here lack.
    """
    loaded = read(path, model_config=model_config, image_size=image_size, dtype=dtype)
    return loaded._replace(params=jax.tree.map(jnp.asarray, loaded.params))


def read(
    path: str | os.PathLike,
    *,
    kind: str | None = None,
    model_config: str | os.PathLike | None = None,
    image_size: int | None = None,
    dtype: Any = jnp.float32,
) -> Checkpoint:
    """load_model with the parameters on the host, as numpy; `kind`, of KINDS, is not guessed."""
    path = epath.Path(path).expanduser()
    kind = kind or recognise(path)
    if kind != 'orbax' and '://' in os.fspath(path):
        raise UserError(
            f'{path}: only workdirs and folders of --to=orbax are read from there; copy it'
        )
    if kind != 'open_clip' and model_config:
        raise UserError(f'model_config goes with OpenCLIP weights: {path} says itself what it is')
    if kind == 'open_clip':
        params, described, source = read_open_clip(Path(path), model_config)
    elif kind == 'hf':
        params, described, source = read_hugging_face(Path(path))
    elif (path / 'checkpoints').is_dir():
        params, described, source = orbax_folder.read_workdir(path)
    else:
        params, described, source = orbax_folder.read_folder(path)
    if image_size is not None:
        params, described = resize_image(params, described, image_size)
    return Checkpoint(build_model(described, dtype=dtype), params, described, source)


def recognise(path: epath.Path) -> str:
    """The kind of weights at a path, one of KINDS; UserError where it is none."""
    if not path.exists():
        raise UserError(f'{path} does not exist: give {ACCEPTED}')
    if path.is_file():
        if path.suffix in SUFFIXES:
            return 'open_clip'
    elif (path / OPEN_CLIP_CONFIG).is_file() and first_of(path, OPEN_CLIP_WEIGHTS):
        return 'open_clip'
    elif (path / 'config.json').is_file():
        if (path / 'checkpoints').is_dir() or (path / 'params').is_dir():
            return 'orbax'
        if first_of(path, HF_WEIGHTS):
            return 'hf'
    raise UserError(f'{path} is none of what can be read: give {ACCEPTED}')


def first_of(folder, names: tuple[str, ...]):
    """The first of the files that is there, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_open_clip(path: Path, config_path: str | os.PathLike | None) -> tuple[dict, dict, str]:
    """(params, config.model, source) of OpenCLIP's weights, a file or a folder."""
    weights_path = path
    if path.is_dir():
        weights_path = first_of(path, OPEN_CLIP_WEIGHTS)
        if weights_path is None:
            raise UserError(f'{path} holds neither of {", ".join(OPEN_CLIP_WEIGHTS)}')
    weights = read_tensors(weights_path)
    card = read_card(weights_path, config_path)
    if card is not None:
        described = open_clip_config.model_config(card)
    else:
        shapes = {name: array.shape for name, array in weights.items()}
        described = open_clip_config.by_shapes(shapes, str(weights_path))
        print(
            f'Note: no model JSON beside {weights_path}: {described["image"]["heads"]} and '
            f'{described["text"]["heads"]} heads and the exact GELU are assumed; '
            'a model config says otherwise',
            file=sys.stderr,
        )
    params = open_clip.to_params(weights, described, str(weights_path))
    return params, described, str(weights_path)


def read_card(weights_path: Path, config_path: str | os.PathLike | None) -> dict | None:
    """OpenCLIP's model JSON: as given, beside the weights, or within them; None if nowhere."""
    beside = (weights_path.with_name(OPEN_CLIP_CONFIG), weights_path.with_suffix('.json'))
    paths = [Path(config_path).expanduser()] if config_path else [p for p in beside if p.is_file()]
    if paths:
        return open_clip_config.read_json(paths[0])
    if weights_path.suffix == '.safetensors':
        with safe_open(weights_path, 'numpy') as file:
            written = (file.metadata() or {}).get(METADATA_KEY)
        try:
            return json.loads(written) if written else None
        except ValueError as error:
            raise UserError(f'{weights_path}: its {METADATA_KEY} is no JSON: {error}') from error
    return None


def read_hugging_face(folder: Path) -> tuple[dict, dict, str]:
    """(params, config.model, source) of a CLIPModel folder."""
    path = first_of(folder, HF_WEIGHTS)
    if path is None:
        raise UserError(f'{folder} holds neither of {", ".join(HF_WEIGHTS)}')
    described = hugging_face.model_config(open_clip_config.read_json(folder / 'config.json'))
    pixels = folder / 'preprocessor_config.json'
    if pixels.is_file():
        content = open_clip_config.read_json(pixels)
        open_clip_config.check_pixels(content, pixels.name, 'image_mean', 'image_std')
    weights = read_tensors(path)
    weights = {n: w for n, w in weights.items() if n not in hugging_face.BUFFERS}
    expected = layout_of(described, lambda p: hugging_face.from_open_clip(open_clip.from_params(p)))
    check_tensors(weights, expected, str(path))
    params = open_clip.to_params(
        hugging_face.to_open_clip(weights, described), described, str(path)
    )
    return params, described, str(path)


def check_tokenizer(config: dict) -> None:
    """Checks that a model's tokens are those of the tokenizer here, CLIP's BPE.

    Args:
      config: config.model, as in Checkpoint.

    Raises:
      UserError: a vocabulary of another size.
    """
    size = config['text']['vocab_size']
    if size != CLIP_VOCABULARY:
        raise UserError(
            f"the model has a vocabulary of {size} tokens, not the {CLIP_VOCABULARY} of CLIP's BPE: "
            'its captions cannot be tokenised here'
        )
