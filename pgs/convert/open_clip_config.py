"""OpenCLIP's model JSON as config.model, the other way round, and by the shapes of bare weights."""

import json
import math
from pathlib import Path

import numpy as np

from pgs.errors import UserError
from pgs.models.clip import PIXEL_MEAN, PIXEL_STD

# What OpenCLIP takes where its JSON is silent.
VISION = {
    'image_size': 224, 'patch_size': 16, 'width': 768, 'layers': 12, 'head_width': 64,
    'mlp_ratio': 4.0,
}  # fmt: skip
TEXT = {
    'context_length': 77, 'vocab_size': 49408, 'width': 512, 'heads': 8, 'layers': 12,
    'mlp_ratio': 4.0,
}  # fmt: skip
# Settings that say what the towers here do anyway.
NEUTRAL = {
    'pool_type': ('tok', 'argmax'), 'pos_embed_type': ('learnable',), 'proj_type': ('linear',),
    'block_type': ('default',),
}  # fmt: skip
# Settings that change nothing in a forward pass of these towers, whatever their value.
IDLE = (
    'patch_dropout', 'output_tokens', 'pad_id', 'eos_id', 'attn_pooler_queries', 'attn_pooler_heads',
    'timm_pool', 'timm_proj', 'hf_model_pretrained', 'hf_proj_type', 'hf_pooler_type',
    'init_logit_scale',
)  # fmt: skip
TOKENIZER = ('hf_tokenizer_name', 'tokenizer_mode', 'tokenizer_kwargs')


def read_json(path: Path) -> dict:
    """A JSON file that holds one object; UserError where it does not."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path}: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'cannot read {path}: it holds no JSON object')
    return content


def model_config(open_clip_config: dict) -> dict:
    """config.model of an OpenCLIP model card's JSON (its `model_cfg` part too).

    Raises:
      UserError: a setting of OpenCLIP that the towers or the pixels here do not have.
    """
    check_pixels(open_clip_config.get('preprocess_cfg') or {}, 'preprocess_cfg', 'mean', 'std')
    source = open_clip_config.get('model_cfg', open_clip_config)
    for key in ('embed_dim', 'vision_cfg', 'text_cfg'):
        if key not in source or (key != 'embed_dim' and not isinstance(source[key], dict)):
            raise UserError(f'OpenCLIP config lacks {key!r}: give the JSON of an OpenCLIP model')
    check_settings(source, ('embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu'))
    check_settings(source['vision_cfg'], VISION)
    check_settings(source['text_cfg'], TEXT)
    vision, text = VISION | source['vision_cfg'], TEXT | source['text_cfg']
    image = {k: integer(vision, k) for k in ('image_size', 'patch_size', 'width', 'layers')}
    image['heads'] = image['width'] // integer(vision, 'head_width')
    image['mlp_ratio'] = number(vision, 'mlp_ratio')
    keys = ('context_length', 'vocab_size', 'width', 'layers', 'heads')
    text_part = {k: integer(text, k) for k in keys} | {'mlp_ratio': number(text, 'mlp_ratio')}
    return {
        'embed_dim': integer(source, 'embed_dim'),
        'image': image,
        'text': text_part,
        'remat': 'none',
        'quick_gelu': bool(source.get('quick_gelu')),
    }


def check_settings(part: dict, known) -> None:
    """Raises UserError for a setting that is on, and that the towers here lack."""
    for name, value in sorted(part.items()):
        if name in known or name in IDLE or not value or value in NEUTRAL.get(name, ()):
            continue
        if name in TOKENIZER:
            raise UserError(
                f"OpenCLIP config sets {name!r} ({value!r}): its tokens are not those of CLIP's "
                'BPE, the one tokenizer here'
            )
        raise UserError(f'OpenCLIP config sets {name!r} ({value!r}), which the towers here lack')


def check_pixels(part: dict, where: str, mean: str, std: str) -> None:
    """Raises UserError for pixels that are normalised by other figures than CLIP's."""
    for name, own in ((mean, PIXEL_MEAN), (std, PIXEL_STD)):
        value = part.get(name)
        if value is not None and not (
            np.shape(value) == (3,) and np.allclose(value, own, atol=1e-4)
        ):
            raise UserError(f'{where}.{name} is {value}, not the {list(own)} of CLIP, used here')


def integer(part: dict, key: str) -> int:
    """A positive integer of a config; a square [n, n] counts as n."""
    value = part[key]
    if key == 'image_size' and isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or value < 1:
        raise UserError(f'config sets {key}={value!r}: the towers here take a positive integer')
    return value


def number(part: dict, key: str) -> float:
    """A positive number of a config."""
    value = part[key]
    if not isinstance(value, int | float) or value <= 0:
        raise UserError(f'config sets {key}={value!r}: the towers here take a positive number')
    return float(value)


def model_card(described: dict) -> dict:
    """The inverse of model_config, with what OpenCLIP must know of pixels: open_clip_config.json."""
    image, text = described['image'], described['text']
    vision = {k: image[k] for k in ('image_size', 'patch_size', 'width', 'layers', 'mlp_ratio')}
    vision['head_width'] = image['width'] // image['heads']
    keys = ('context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio')
    card = {
        'embed_dim': described['embed_dim'],
        'vision_cfg': vision,
        'text_cfg': {k: text[k] for k in keys},
    }
    if described['quick_gelu']:
        card['quick_gelu'] = True
    pixels = {'mean': list(PIXEL_MEAN), 'std': list(PIXEL_STD)}
    pixels |= {'interpolation': 'bicubic', 'resize_mode': 'shortest'}
    return {'model_cfg': card, 'preprocess_cfg': pixels}


def by_shapes(shapes: dict[str, tuple[int, ...]], where: str) -> dict:
    """config.model of bare OpenCLIP weights; heads and activation leave no trace and are assumed.

    Args:
      shapes: OpenCLIP name -> shape.
      where: names the weights in a message.

    Raises:
      UserError: weights that are not of a ViT CLIP in OpenCLIP's names, or unusual widths.
    """
    needed = (
        'visual.conv1.weight', 'visual.positional_embedding', 'visual.proj',
        'visual.transformer.resblocks.0.mlp.c_fc.weight', 'token_embedding.weight',
        'positional_embedding', 'transformer.resblocks.0.mlp.c_fc.weight',
    )  # fmt: skip
    if missing := [name for name in needed if name not in shapes]:
        raise UserError(
            f"{where} lacks {missing[0]!r}: these are not the weights of a ViT CLIP in OpenCLIP's names"
        )
    width, _, patch, _ = shapes['visual.conv1.weight']
    grid = math.isqrt(shapes['visual.positional_embedding'][0] - 1)
    vocabulary, text_width = shapes['token_embedding.weight']
    # OpenCLIP's models have heads of width 64, but for image towers wider than 1024: 16 heads.
    if width % 64 or text_width % 64:
        raise UserError(
            f'{where}: heads cannot be told from widths {width} and {text_width}: '
            'give --model_config=FILE.json (OpenCLIP model JSON)'
        )
    image = {
        'image_size': grid * patch, 'patch_size': patch, 'width': width,
        'layers': depth(shapes, 'visual.transformer.resblocks.'), 'heads': min(width // 64, 16),
        'mlp_ratio': ratio(shapes['visual.transformer.resblocks.0.mlp.c_fc.weight']),
    }  # fmt: skip
    text = {
        'context_length': shapes['positional_embedding'][0], 'vocab_size': vocabulary,
        'width': text_width, 'layers': depth(shapes, 'transformer.resblocks.'),
        'heads': text_width // 64,
        'mlp_ratio': ratio(shapes['transformer.resblocks.0.mlp.c_fc.weight']),
    }  # fmt: skip
    described = {'embed_dim': shapes['visual.proj'][1], 'image': image, 'text': text}
    return described | {'remat': 'none', 'quick_gelu': False}


def depth(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """Layers of a stack: one more than the highest number after the prefix."""
    numbers = {n.removeprefix(prefix).split('.')[0] for n in shapes if n.startswith(prefix)}
    return 1 + max(int(number) for number in numbers if number.isdecimal())


def ratio(shape: tuple[int, ...]) -> float:
    """Hidden width over width, such that width * ratio is not rounded down past the hidden one."""
    hidden, width = shape
    value = hidden / width
    return value if int(width * value) == hidden else float(np.nextafter(value, np.inf))
