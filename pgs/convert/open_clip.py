"""OpenCLIP's weights: their files, and their tensors, by name, as our parameters and back."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import flax
import numpy as np
from safetensors import safe_open

from pgs.convert import open_clip_config
from pgs.convert.parameters import flat_params, layout_of
from pgs.convert.tensors import Weights, check_tensors, first_of, read_tensors
from pgs.errors import UserError
from pgs.models.clip import CLIP, build_model
from pgs.utils.files import parse_json

OPEN_CLIP_CONFIG = 'open_clip_config.json'
OPEN_CLIP_WEIGHTS = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
METADATA_KEY = 'open_clip_config'  # our .safetensors hold the model JSON under this metadata key


def same(w):
    """No change."""
    return w


def transposed(w):
    """(out, in) <-> (in, out)."""
    return w.T


def conv_to_dense(w):
    """(out, in, height, width) -> (height * width * in, out): the order of `pixel_patches`."""
    return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def dense_to_conv(w):
    """The inverse of conv_to_dense, for square patches of three channels."""
    size = math.isqrt(w.shape[0] // 3)
    return w.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)


INVERSE = {same: same, transposed: transposed, conv_to_dense: dense_to_conv}

# OpenCLIP name -> (path of our parameter, transform). A block entry applies to every layer.
TOP_TABLE = {
    'logit_scale': ('logit_scale', same),
    'visual.class_embedding': ('image_tower/class_token', same),
    'visual.positional_embedding': ('image_tower/positions', same),
    'visual.conv1.weight': ('image_tower/patch_embedding/kernel', conv_to_dense),
    'visual.ln_pre.weight': ('image_tower/ln_pre/scale', same),
    'visual.ln_pre.bias': ('image_tower/ln_pre/bias', same),
    'visual.ln_post.weight': ('image_tower/ln_post/scale', same),
    'visual.ln_post.bias': ('image_tower/ln_post/bias', same),
    'visual.proj': ('image_tower/projection', same),
    'token_embedding.weight': ('text_tower/token_embedding', same),
    'positional_embedding': ('text_tower/positions', same),
    'ln_final.weight': ('text_tower/ln_final/scale', same),
    'ln_final.bias': ('text_tower/ln_final/bias', same),
    'text_projection': ('text_tower/projection', same),
}
BLOCK_TABLE = {
    'ln_1.weight': ('ln_1/scale', same),
    'ln_1.bias': ('ln_1/bias', same),
    'attn.in_proj_weight': ('qkv/kernel', transposed),
    'attn.in_proj_bias': ('qkv/bias', same),
    'attn.out_proj.weight': ('out/kernel', transposed),
    'attn.out_proj.bias': ('out/bias', same),
    'ln_2.weight': ('ln_2/scale', same),
    'ln_2.bias': ('ln_2/bias', same),
    'mlp.c_fc.weight': ('fc/kernel', transposed),
    'mlp.c_fc.bias': ('fc/bias', same),
    'mlp.c_proj.weight': ('proj/kernel', transposed),
    'mlp.c_proj.bias': ('proj/bias', same),
}
TOWERS = {'visual.transformer.resblocks': 'image_tower', 'transformer.resblocks': 'text_tower'}


def to_params(
    weights: dict[str, np.ndarray], architecture: dict[str, Any], where: str = 'weights'
) -> dict[str, Any]:
    """Renames and transposes OpenCLIP's tensors and stacks the layers.

    Args:
      weights: OpenCLIP name -> array.
      architecture: a mapping like config.model.
      where: name of the weights in messages.

    Returns:
      The parameter tree of `CLIP`, float32 numpy.

    Raises:
      UserError: a tensor that is missing, surplus, of another shape or not finite, by name.
    """
    check_tensors(weights, layout_of(architecture, from_params), where)
    params = {path: fn(weights[name]) for name, (path, fn) in TOP_TABLE.items()}
    for prefix, tower in TOWERS.items():
        layers = architecture[tower.removesuffix('_tower')]['layers']
        for name, (path, fn) in BLOCK_TABLE.items():
            stack = [fn(weights[f'{prefix}.{i}.{name}']) for i in range(layers)]
            params[f'{tower}/transformer/blocks/{path}'] = np.stack(stack)
    params = {path: np.asarray(w, np.float32, order='C') for path, w in params.items()}
    return flax.traverse_util.unflatten_dict(params, sep='/')


def from_params(params: dict[str, Any]) -> dict[str, Any]:
    """The inverse of to_params: parameter tree -> OpenCLIP name -> array."""
    flat = flat_params(params)
    weights = {name: INVERSE[fn](flat[path]) for name, (path, fn) in TOP_TABLE.items()}
    for prefix, tower in TOWERS.items():
        for name, (path, fn) in BLOCK_TABLE.items():
            stack = flat[f'{tower}/transformer/blocks/{path}']
            for i in range(stack.shape[0]):
                weights[f'{prefix}.{i}.{name}'] = INVERSE[fn](stack[i])
    return weights


def read_open_clip(path: Path, model_config: str | os.PathLike | None) -> Weights:
    """OpenCLIP's weights, from a file or a folder."""
    weights_path = path
    if path.is_dir():
        in_folder = first_of(path, OPEN_CLIP_WEIGHTS)
        if in_folder is None:
            raise UserError(f'{path} holds neither of {", ".join(OPEN_CLIP_WEIGHTS)}')
        weights_path = in_folder
    weights = read_tensors(weights_path)
    card = read_card(weights_path, model_config)
    if card is not None:
        architecture = open_clip_config.checked(open_clip_config.architecture_of, card)
    else:
        shapes = {name: array.shape for name, array in weights.items()}
        try:
            architecture = open_clip_config.infer_architecture(shapes, str(weights_path))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise UserError(
                f'{weights_path}: its shapes are not those of a ViT CLIP ({error})'
            ) from error
        print(
            f'Note: no model JSON beside {weights_path}: {architecture["image"]["heads"]} and '
            f'{architecture["text"]["heads"]} heads and the exact GELU are assumed; '
            '--model_config=FILE.json overrides this',
            file=sys.stderr,
        )
    params = to_params(weights, architecture, str(weights_path))
    return params, architecture, str(weights_path)


def read_card(weights_path: Path, model_config: str | os.PathLike | None) -> dict[str, Any] | None:
    """OpenCLIP's model JSON: the given file, the one beside the weights or the one inside them."""
    if model_config:
        return open_clip_config.read_json(Path(model_config).expanduser())
    for beside in (weights_path.with_name(OPEN_CLIP_CONFIG), weights_path.with_suffix('.json')):
        if beside.is_file():
            return open_clip_config.read_json(beside)
    if weights_path.suffix == '.safetensors':
        with safe_open(weights_path, 'numpy') as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        try:
            return parse_json(text.encode()) if text else None
        except ValueError as error:
            raise UserError(f'{weights_path}: its {METADATA_KEY} is not JSON: {error}') from error
    return None


def load_open_clip(
    weights_path: str | Path, config_path: str | Path
) -> tuple[CLIP, dict[str, Any]]:
    """(model, numpy parameters) of OpenCLIP weights and their model JSON; see load_model.

    Raises:
      UserError: as load_model.
    """
    params, architecture, _ = read_open_clip(Path(weights_path), config_path)
    return build_model(architecture, dtype=np.float32), params
