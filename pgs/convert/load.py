"""load_model(path): reads weights of any supported kind as a model, its parameters and its config."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from input_pipeline.tokenizer import VOCAB_SIZE
from pgs.convert import hugging_face, open_clip, open_clip_config, orbax_folder
from pgs.convert.open_clip import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from pgs.convert.parameters import check_architecture, layout_of
from pgs.convert.positions import resize_image
from pgs.convert.shards import INDEX, read_shards
from pgs.convert.tensors import SUFFIXES, Weights, check_tensors, first_of, read_tensors
from pgs.errors import UserError
from pgs.models.clip import CLIP, build_model

HF_WEIGHTS = (  # in the order in which transformers looks for them
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
KINDS = ('open_clip', 'hf', 'orbax')
ACCEPTED = (
    'a workdir of main.py, a folder of python -m pgs.convert, an OpenCLIP file '
    f'({", ".join(SUFFIXES)}), a folder with {OPEN_CLIP_CONFIG}, or a CLIPModel folder of Hugging Face'
)


class Checkpoint(NamedTuple):
    """A model and its weights.

    Attributes:
      model: the towers.
      params: the float32 tree that model.apply takes.
      config: the architecture, a mapping like config.model without its dtype: embed_dim, image,
        text, remat, quick_gelu.
      source: where the weights come from, for messages.
    """

    model: CLIP
    params: dict[str, Any]
    config: dict[str, Any]
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
      model_config: path of OpenCLIP's model JSON, for an OpenCLIP file without one beside it.
      image_size: pixels; position embeddings are resampled if it is not the model's own.
      dtype: of the computation.

    Raises:
      UserError: another kind of path, weights that are damaged or do not fit their config, or a
        setting that this project's towers do not have.
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
    """load_model with numpy parameters; `kind`, one of KINDS, is detected by default."""
    location = epath.Path(path).expanduser()
    kind = kind or detect_kind(location)
    if kind != 'orbax' and '://' in os.fspath(location):
        raise UserError(
            f'{location}: only workdirs and folders of --to=orbax can be read from such an address; '
            'copy it to a local disk'
        )
    if kind != 'open_clip' and model_config:
        raise UserError(
            f'model_config applies only to OpenCLIP weights: {location} holds its own config'
        )
    if kind == 'open_clip':
        params, architecture, source = open_clip.read_open_clip(Path(location), model_config)
    elif kind == 'hf':
        params, architecture, source = read_hugging_face(Path(location))
    elif (location / 'checkpoints').is_dir():
        params, architecture, source = orbax_folder.read_workdir(location)
    else:
        params, architecture, source = orbax_folder.read_folder(location)
    if image_size is not None:
        params, architecture = resize_image(params, architecture, image_size)
    check_architecture(architecture)
    return Checkpoint(build_model(architecture, dtype=dtype), params, architecture, source)


def detect_kind(path: epath.Path) -> str:
    """The kind of weights at a path, one of KINDS.

    Raises:
      UserError: no such path, or no weights of a known kind.
    """
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
    raise UserError(f'{path} is of no kind that can be read: give {ACCEPTED}')


def read_hugging_face(folder: Path) -> Weights:
    """Weights of a CLIPModel folder."""
    path = first_of(folder, HF_WEIGHTS)
    if path is None:
        raise UserError(f'{folder} holds neither of {", ".join(HF_WEIGHTS)}')
    card = open_clip_config.read_json(folder / 'config.json')
    architecture = open_clip_config.checked(hugging_face.architecture_of, card)
    pixels = folder / 'preprocessor_config.json'
    if pixels.is_file():
        content = open_clip_config.read_json(pixels)
        open_clip_config.check_pixels(content, pixels.name, 'image_mean', 'image_std')
    read_files = read_shards if path.name.endswith(INDEX) else read_tensors
    weights: dict[str, np.ndarray] = {
        name: array for name, array in read_files(path).items() if name not in hugging_face.BUFFERS
    }
    expected = layout_of(
        architecture, lambda p: hugging_face.from_open_clip(open_clip.from_params(p))
    )
    check_tensors(weights, expected, str(path))
    weights = hugging_face.to_open_clip(weights, architecture)
    return open_clip.to_params(weights, architecture, str(path)), architecture, str(path)


def check_tokenizer(architecture: dict[str, Any]) -> None:
    """Checks that this project's tokenizer, CLIP's BPE, has the model's vocabulary.

    Args:
      architecture: a mapping like config.model; see Checkpoint.config.

    Raises:
      UserError: a vocabulary of another size.
    """
    size = architecture['text']['vocab_size']
    if size != VOCAB_SIZE:
        raise UserError(
            f"the model has a vocabulary of {size} tokens, not the {VOCAB_SIZE} of CLIP's BPE: "
            'its captions cannot be tokenised here'
        )
