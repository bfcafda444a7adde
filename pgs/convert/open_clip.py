"""OpenCLIP's weights, by name, as parameters of our model."""

import json
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pgs.errors import UserError
from pgs.models.clip import CLIP, build_model


def same(w):
    return w


def transposed(w):
    return w.T


def conv_to_dense(w):
    """(out, in, height, width) -> (height * width * in, out): the order of `pixel_patches`."""
    return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


# OpenCLIP name -> (path of our parameter, transform). Block entries stand for one layer.
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


def to_params(weights: dict[str, np.ndarray], layers: dict[str, int]) -> dict:
    """Renames and transposes OpenCLIP's tensors; layers are stacked.

    Args:
      weights: OpenCLIP name -> array.
      layers: {'image_tower': n, 'text_tower': n}.

    Returns:
      The parameter tree of `CLIP`, float32.

    Raises:
      UserError: a missing or a surplus tensor, by name.
    """
    wanted = set(TOP_TABLE)
    for prefix, tower in TOWERS.items():
        wanted |= {f'{prefix}.{i}.{n}' for i in range(layers[tower]) for n in BLOCK_TABLE}
    if missing := sorted(wanted - weights.keys()):
        raise UserError(f'weights lack {missing[0]!r} ({len(missing)} tensors missing): '
                        'do the layers of the config fit them?')  # fmt: skip
    if surplus := sorted(weights.keys() - wanted):
        raise UserError(f'weights hold {surplus[0]!r}, which this model has no place for '
                        f'({len(surplus)} surplus tensors): do the layers of the config fit them?')  # fmt: skip
    params = {path: fn(weights[name]) for name, (path, fn) in TOP_TABLE.items()}
    for prefix, tower in TOWERS.items():
        for name, (path, fn) in BLOCK_TABLE.items():
            stack = [fn(weights[f'{prefix}.{i}.{name}']) for i in range(layers[tower])]
            params[f'{tower}/transformer/blocks/{path}'] = np.stack(stack)
    params = {path: jnp.asarray(w, jnp.float32) for path, w in params.items()}
    return flax.traverse_util.unflatten_dict(params, sep='/')


def model_config(open_clip_config: dict) -> dict:
    """config.model of an OpenCLIP model card's JSON (its `model_cfg` part too).

    Raises:
      UserError: a setting of OpenCLIP that the towers here do not have.
    """
    source = open_clip_config.get('model_cfg', open_clip_config)
    vision, text = source['vision_cfg'], source['text_cfg']
    if source.get('quick_gelu'):
        raise UserError('quick_gelu models are not supported: the towers here use the exact GELU')
    known = (
        {'image_size', 'patch_size', 'width', 'layers', 'head_width', 'mlp_ratio'},
        {'context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio'},
    )
    for part, names in zip((vision, text), known, strict=True):
        if unknown := sorted(part.keys() - names):
            raise UserError(f'OpenCLIP config sets {unknown[0]!r}, which the towers here lack')
    image = {k: vision[k] for k in ('image_size', 'patch_size', 'width', 'layers')}
    image['heads'] = vision['width'] // vision.get('head_width', 64)
    image['mlp_ratio'] = float(vision.get('mlp_ratio', 4.0))
    text_keys = ('context_length', 'vocab_size', 'width', 'layers', 'heads')
    text_part = {k: text[k] for k in text_keys} | {'mlp_ratio': float(text.get('mlp_ratio', 4.0))}
    return {'embed_dim': source['embed_dim'], 'image': image, 'text': text_part, 'remat': 'none'}


def load_open_clip(weights_path: str | Path, config_path: str | Path) -> tuple[CLIP, dict]:
    """Reads an OpenCLIP model.

    Args:
      weights_path: .safetensors file with OpenCLIP's names.
      config_path: OpenCLIP's model JSON.

    Returns:
      (model, params): `model.apply({'params': params}, images, tokens)` gives image_features,
      text_features and logit_scale, as OpenCLIP's forward pass does. images are float32 NHWC.

    Raises:
      UserError: unreadable file, missing or surplus tensor, unequal shape, unsupported setting.
    """
    try:
        weights = load_file(weights_path)
        config = json.loads(Path(config_path).read_text())
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f'cannot read {weights_path} with {config_path}: {error}') from error
    described = model_config(config)
    model = build_model(described, dtype=jnp.float32)
    layers = {f'{t}_tower': described[t]['layers'] for t in ('image', 'text')}
    params = to_params(weights, layers)
    check_shapes(model, described, params)
    return model, params


def check_shapes(model: CLIP, described: dict, params: dict) -> None:
    """Raises UserError where a parameter's shape is not the model's own."""
    size = described['image']['image_size']
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, described['text']['context_length']), jnp.int32)
    expected = jax.eval_shape(model.init, jax.random.key(0), images, tokens)['params']
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    for path, leaf in flax.traverse_util.flatten_dict(expected, sep='/').items():
        if flat[path].shape != leaf.shape:
            raise UserError(
                f'{path} has shape {flat[path].shape} in the weights, {leaf.shape} by the config'
            )
