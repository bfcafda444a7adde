"""Converts between OpenCLIP's model JSON and an architecture, a mapping like config.model.

Weights without a JSON get an architecture from the shapes of their tensors.
"""

import math
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.tokenizer import VOCAB_SIZE
from pgs.config_table import shown
from pgs.errors import UserError
from pgs.models.clip import PIXEL_MEAN, PIXEL_STD
from pgs.utils import files

# OpenCLIP's defaults for settings that its JSON omits.
VISION: dict[str, Any] = {
    'image_size': 224,
    'patch_size': 16,
    'width': 768,
    'layers': 12,
    'head_width': 64,
    'mlp_ratio': 4.0,
}
TEXT: dict[str, Any] = {
    'context_length': 77,
    'vocab_size': VOCAB_SIZE,
    'width': 512,
    'heads': 8,
    'layers': 12,
    'mlp_ratio': 4.0,
}
# Settings whose value is what this project's towers do in any case.
NEUTRAL = {
    'pool_type': ('tok', 'argmax'),
    'pos_embed_type': ('learnable',),
    'proj_type': ('linear',),
    'block_type': ('default',),
}
# Settings that do not change the forward pass of these towers, whatever their value.
IGNORED = (
    'patch_dropout',
    'output_tokens',
    'pad_id',
    'eos_id',
    'attn_pooler_queries',
    'attn_pooler_heads',
    'timm_pool',
    'timm_proj',
    'hf_model_pretrained',
    'hf_proj_type',
    'hf_pooler_type',
    'init_logit_scale',
)
TOKENIZER = ('hf_tokenizer_name', 'tokenizer_mode', 'tokenizer_kwargs')

# Tensors whose shapes give the architecture.
IMAGE_MLP = 'visual.transformer.resblocks.0.mlp.c_fc.weight'
TEXT_MLP = 'transformer.resblocks.0.mlp.c_fc.weight'
NEEDED = (
    'visual.conv1.weight',
    'visual.positional_embedding',
    'visual.proj',
    IMAGE_MLP,
    'token_embedding.weight',
    'positional_embedding',
    TEXT_MLP,
)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds one object.

    Raises:
      UserError: a file that cannot be read, or with other content.
    """
    try:
        content = files.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path}: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'cannot read {path}: it holds no JSON object')
    return content


def checked(read: Callable[[dict[str, Any]], dict[str, Any]], card: Any) -> dict[str, Any]:
    """read(card), for the JSON of a model whose entries may have any type.

    Raises:
      UserError: as `read`, or an entry of a type that it does not expect.
    """
    if not isinstance(card, dict):
        raise UserError(f'the config is a {type(card).__name__}, not a JSON object')
    try:
        return read(card)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        raise UserError(f'the config is not that of a CLIP model ({error!r})') from error


def architecture_of(card: dict[str, Any]) -> dict[str, Any]:
    """The architecture that a model JSON of OpenCLIP describes.

    Args:
      card: content of open_clip_config.json, or its part `model_cfg`.

    Raises:
      UserError: a setting of OpenCLIP that this project's towers do not have, or other pixel
        statistics than CLIP's.
    """
    check_pixels(card.get('preprocess_cfg') or {}, 'preprocess_cfg', 'mean', 'std')
    model = card.get('model_cfg', card)
    for key in ('embed_dim', 'vision_cfg', 'text_cfg'):
        if key not in model or (key != 'embed_dim' and not isinstance(model[key], dict)):
            raise UserError(f'OpenCLIP config lacks {key!r}: give the JSON of an OpenCLIP model')
    check_settings(model, ('embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu'))
    check_settings(model['vision_cfg'], VISION)
    check_settings(model['text_cfg'], TEXT)
    vision, text = VISION | model['vision_cfg'], TEXT | model['text_cfg']
    image_keys = ('image_size', 'patch_size', 'width', 'layers')
    image: dict[str, Any] = {key: integer(vision, key) for key in image_keys}
    image['heads'] = image['width'] // integer(vision, 'head_width')
    image['mlp_ratio'] = number(vision, 'mlp_ratio')
    text_keys = ('context_length', 'vocab_size', 'width', 'layers', 'heads')
    return {
        'embed_dim': integer(model, 'embed_dim'),
        'image': image,
        'text': {key: integer(text, key) for key in text_keys}
        | {'mlp_ratio': number(text, 'mlp_ratio')},
        'remat': 'none',
        'quick_gelu': bool(model.get('quick_gelu')),
    }


def check_settings(part: dict[str, Any], known: Container[str]) -> None:
    """Raises UserError for a setting that is on and that this project's towers do not have."""
    for name, value in sorted(part.items()):
        if name in known or name in IGNORED or not value or value in NEUTRAL.get(name, ()):
            continue
        if name in TOKENIZER:
            raise UserError(
                f"OpenCLIP config sets {name!r} ({shown(value)}): its tokens are not those of CLIP's "
                'BPE, the only tokenizer here'
            )
        raise UserError(
            f"OpenCLIP config sets {name!r} ({shown(value)}), which this project's towers do not have"
        )


def check_pixels(part: dict[str, Any], where: str, mean: str, std: str) -> None:
    """Raises UserError for pixels that are normalised by other values than CLIP's."""
    for name, ours in ((mean, PIXEL_MEAN), (std, PIXEL_STD)):
        value = part.get(name)
        if value is not None and not (
            np.shape(value) == (3,) and np.allclose(value, ours, atol=1e-4)
        ):
            raise UserError(
                f'{where}.{name} is {shown(value)}: only {list(ours)}, as in CLIP, is supported'
            )


def integer(part: dict[str, Any], key: str) -> int:
    """A positive integer of a config; a square image size [n, n] counts as n."""
    value = part[key]
    if key == 'image_size' and isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or value < 1:
        raise UserError(f'config sets {key}={shown(value)}: it must be a positive integer')
    return value


def number(part: dict[str, Any], key: str) -> float:
    """A positive number of a config."""
    value = part[key]
    if not isinstance(value, int | float) or value <= 0:
        raise UserError(f'config sets {key}={shown(value)}: it must be a positive number')
    return float(value)


def model_card(architecture: dict[str, Any]) -> dict[str, Any]:
    """The inverse of architecture_of, with preprocessing: the content of open_clip_config.json."""
    image, text = architecture['image'], architecture['text']
    vision = {k: image[k] for k in ('image_size', 'patch_size', 'width', 'layers', 'mlp_ratio')}
    vision['head_width'] = image['width'] // image['heads']
    keys = ('context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio')
    model = {
        'embed_dim': architecture['embed_dim'],
        'vision_cfg': vision,
        'text_cfg': {k: text[k] for k in keys},
    }
    if architecture['quick_gelu']:
        model['quick_gelu'] = True
    pixels = {
        'mean': list(PIXEL_MEAN),
        'std': list(PIXEL_STD),
        'interpolation': 'bicubic',
        'resize_mode': 'shortest',
    }
    return {'model_cfg': model, 'preprocess_cfg': pixels}


def infer_architecture(shapes: dict[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """The architecture of OpenCLIP weights without a JSON.

    The number of heads and the activation do not show in the shapes. As in OpenCLIP's own models,
    heads are taken to be 64 wide, except that an image tower wider than 1024 has 16 heads; the
    activation is taken to be the exact GELU.

    Args:
      shapes: OpenCLIP name -> shape.
      where: name of the weights in messages.

    Raises:
      UserError: weights that are not of a ViT CLIP with OpenCLIP's names, or unusual widths.
    """
    if missing := [name for name in NEEDED if name not in shapes]:
        raise UserError(
            f"{where} lacks {missing[0]!r}: these are not the weights of a ViT CLIP in OpenCLIP's names"
        )
    width, _, patch, _ = shapes['visual.conv1.weight']
    grid = math.isqrt(shapes['visual.positional_embedding'][0] - 1)
    vocabulary, text_width = shapes['token_embedding.weight']
    if width % 64 or text_width % 64:
        raise UserError(
            f'{where}: the widths {width} and {text_width} do not give the number of heads: '
            'give --model_config=FILE.json (OpenCLIP model JSON)'
        )
    return {
        'embed_dim': shapes['visual.proj'][1],
        'image': {
            'image_size': grid * patch,
            'patch_size': patch,
            'width': width,
            'layers': depth(shapes, 'visual.transformer.resblocks.'),
            'heads': min(width // 64, 16),
            'mlp_ratio': ratio(shapes[IMAGE_MLP]),
        },
        'text': {
            'context_length': shapes['positional_embedding'][0],
            'vocab_size': vocabulary,
            'width': text_width,
            'layers': depth(shapes, 'transformer.resblocks.'),
            'heads': text_width // 64,
            'mlp_ratio': ratio(shapes[TEXT_MLP]),
        },
        'remat': 'none',
        'quick_gelu': False,
    }


def depth(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """Layers of a stack: one more than the highest number after the prefix."""
    numbers = {n.removeprefix(prefix).split('.')[0] for n in shapes if n.startswith(prefix)}
    return 1 + max(int(number) for number in numbers if number.isdecimal())


def ratio(shape: tuple[int, ...]) -> float:
    """hidden / width of a shape (hidden, width), rounded up so that int(width * ratio) == hidden."""
    hidden, width = shape
    value = hidden / width
    return value if int(width * value) == hidden else float(np.nextafter(value, np.inf))
