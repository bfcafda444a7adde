"""Converts between CLIPModel of Hugging Face's transformers and OpenCLIP: tensor names and configs."""

from typing import Any

import numpy as np

from input_pipeline.tokenizer import VOCAB_SIZE
from pgs.config_table import shown
from pgs.convert.open_clip_config import integer, ratio
from pgs.errors import UserError
from pgs.models.clip import INITIAL_LOG_SCALE, PIXEL_MEAN, PIXEL_STD
from pgs.models.transformer import LAYER_NORM_EPSILON

# OpenCLIP's name -> transformers' name. A block entry applies to every layer. PROJECTIONS are
# transposed. OpenCLIP's in_proj holds q, k and v in one tensor and is split separately.
TOP_TABLE = {
    'logit_scale': 'logit_scale',
    'visual.class_embedding': 'vision_model.embeddings.class_embedding',
    'visual.positional_embedding': 'vision_model.embeddings.position_embedding.weight',
    'visual.conv1.weight': 'vision_model.embeddings.patch_embedding.weight',
    'visual.ln_pre.weight': 'vision_model.pre_layrnorm.weight',  # transformers' spelling
    'visual.ln_pre.bias': 'vision_model.pre_layrnorm.bias',
    'visual.ln_post.weight': 'vision_model.post_layernorm.weight',
    'visual.ln_post.bias': 'vision_model.post_layernorm.bias',
    'token_embedding.weight': 'text_model.embeddings.token_embedding.weight',
    'positional_embedding': 'text_model.embeddings.position_embedding.weight',
    'ln_final.weight': 'text_model.final_layer_norm.weight',
    'ln_final.bias': 'text_model.final_layer_norm.bias',
}
PROJECTIONS = {
    'visual.proj': 'visual_projection.weight',
    'text_projection': 'text_projection.weight',
}
BLOCK_TABLE = {
    'ln_1.weight': 'layer_norm1.weight',
    'ln_1.bias': 'layer_norm1.bias',
    'attn.out_proj.weight': 'self_attn.out_proj.weight',
    'attn.out_proj.bias': 'self_attn.out_proj.bias',
    'ln_2.weight': 'layer_norm2.weight',
    'ln_2.bias': 'layer_norm2.bias',
    'mlp.c_fc.weight': 'mlp.fc1.weight',
    'mlp.c_fc.bias': 'mlp.fc1.bias',
    'mlp.c_proj.weight': 'mlp.fc2.weight',
    'mlp.c_proj.bias': 'mlp.fc2.bias',
}
TOWERS = {
    'visual.transformer.resblocks': 'vision_model.encoder.layers',
    'transformer.resblocks': 'text_model.encoder.layers',
}
BUFFERS = ('vision_model.embeddings.position_ids', 'text_model.embeddings.position_ids')

# transformers' defaults, which its newer versions leave out of config.json.
COMMON = {'hidden_act': 'quick_gelu', 'layer_norm_eps': LAYER_NORM_EPSILON}
VISION = COMMON | {
    'hidden_size': 768,
    'intermediate_size': 3072,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'num_channels': 3,
    'image_size': 224,
    'patch_size': 32,
}
TEXT = COMMON | {
    'hidden_size': 512,
    'intermediate_size': 2048,
    'num_hidden_layers': 12,
    'num_attention_heads': 8,
    'max_position_embeddings': 77,
    'vocab_size': VOCAB_SIZE,
    'eos_token_id': VOCAB_SIZE - 1,
}
ARGMAX_POOLING = 2  # with this eos_token_id, transformers pools at the highest token id


def from_open_clip(weights: dict[str, Any]) -> dict[str, Any]:
    """OpenCLIP's tensors under CLIPModel's names, with q, k and v as separate tensors."""
    renamed = {theirs: weights[ours] for ours, theirs in TOP_TABLE.items()}
    renamed |= {theirs: weights[ours].T for ours, theirs in PROJECTIONS.items()}
    for prefix, target in TOWERS.items():
        layers = sum(1 for n in weights if n.startswith(prefix) and n.endswith('.ln_1.weight'))
        for i in range(layers):
            for ours, theirs in BLOCK_TABLE.items():
                renamed[f'{target}.{i}.{theirs}'] = weights[f'{prefix}.{i}.{ours}']
            for kind in ('weight', 'bias'):
                joined = weights[f'{prefix}.{i}.attn.in_proj_{kind}']
                width = joined.shape[0] // 3
                for j, part in enumerate('qkv'):
                    name = f'{target}.{i}.self_attn.{part}_proj.{kind}'
                    renamed[name] = joined[j * width : (j + 1) * width]
    return renamed


def to_open_clip(
    weights: dict[str, np.ndarray], architecture: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The inverse of from_open_clip, for weights whose names were checked."""
    renamed = {ours: weights[theirs] for ours, theirs in TOP_TABLE.items()}
    renamed |= {ours: weights[theirs].T for ours, theirs in PROJECTIONS.items()}
    for (prefix, target), tower in zip(TOWERS.items(), ('image', 'text'), strict=True):
        for i in range(architecture[tower]['layers']):
            for ours, theirs in BLOCK_TABLE.items():
                renamed[f'{prefix}.{i}.{ours}'] = weights[f'{target}.{i}.{theirs}']
            for kind in ('weight', 'bias'):
                parts = [weights[f'{target}.{i}.self_attn.{p}_proj.{kind}'] for p in 'qkv']
                renamed[f'{prefix}.{i}.attn.in_proj_{kind}'] = np.concatenate(parts)
    return renamed


def architecture_of(config: dict[str, Any]) -> dict[str, Any]:
    """The architecture, a mapping like config.model, that a CLIPModel's config.json describes.

    Raises:
      UserError: another kind of model, or a setting that this project's towers do not have.
    """
    if config.get('model_type') != 'clip':
        raise UserError(
            f'config.json has model_type {shown(config.get("model_type"))}: '
            'only CLIPModel (clip) can be read'
        )
    # Older files repeat a part as *_config_dict, and transformers prefers that one.
    vision, text = (
        default | (config.get(f'{name}_config') or {}) | (config.get(f'{name}_config_dict') or {})
        for name, default in (('vision', VISION), ('text', TEXT))
    )
    check_parts(vision, text)
    return {
        'embed_dim': integer({'projection_dim': 512} | config, 'projection_dim'),
        'image': {k: integer(vision, k) for k in ('image_size', 'patch_size')} | tower(vision),
        'text': {
            'context_length': integer(text, 'max_position_embeddings'),
            'vocab_size': integer(text, 'vocab_size'),
        }
        | tower(text),
        'remat': 'none',
        'quick_gelu': vision['hidden_act'] == 'quick_gelu',
    }


def check_parts(vision: dict[str, Any], text: dict[str, Any]) -> None:
    """Raises UserError for a setting that this project's towers do not have."""
    required = [
        ('num_channels', vision['num_channels'], 3),
        ('layer_norm_eps of vision_config', vision['layer_norm_eps'], LAYER_NORM_EPSILON),
        ('layer_norm_eps of text_config', text['layer_norm_eps'], LAYER_NORM_EPSILON),
    ]
    for name, value, supported in required:
        if value != supported:
            raise UserError(
                f'config.json sets {name} to {shown(value)}: only {supported} is supported here'
            )
    if text['eos_token_id'] not in (ARGMAX_POOLING, text['vocab_size'] - 1):
        raise UserError(
            f'config.json sets eos_token_id={shown(text["eos_token_id"])}: the text tower pools at the '
            f'highest id, {text["vocab_size"] - 1}'
        )
    acts = (vision['hidden_act'], text['hidden_act'])
    if acts not in (('quick_gelu',) * 2, ('gelu',) * 2):
        raise UserError(
            f'config.json sets hidden_act to {shown(acts[0])} (image) and {shown(acts[1])} (text): '
            "supported are 'gelu' and 'quick_gelu', the same for both towers"
        )


def tower(part: dict[str, Any]) -> dict[str, Any]:
    """The settings that both towers have, from one part of config.json."""
    width = integer(part, 'hidden_size')
    return {
        'width': width,
        'layers': integer(part, 'num_hidden_layers'),
        'heads': integer(part, 'num_attention_heads'),
        'mlp_ratio': ratio((integer(part, 'intermediate_size'), width)),
    }


def configs(architecture: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The JSON files that transformers reads beside the weights: file name -> content."""
    size = architecture['image']['image_size']
    pixels = {
        'image_processor_type': 'CLIPImageProcessor',
        'do_convert_rgb': True,
        'do_resize': True,
        'size': {'shortest_edge': size},
        'resample': 3,  # Pillow's bicubic
        'do_center_crop': True,
        'crop_size': {'height': size, 'width': size},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(PIXEL_MEAN),
        'image_std': list(PIXEL_STD),
    }
    return {'config.json': model_json(architecture), 'preprocessor_config.json': pixels}


def model_json(architecture: dict[str, Any]) -> dict[str, Any]:
    """The inverse of architecture_of: the content of config.json."""
    image, text = architecture['image'], architecture['text']
    embed_dim = architecture['embed_dim']

    def part(tower: dict[str, Any], kind: str) -> dict[str, Any]:
        return {
            'model_type': f'clip_{kind}_model',
            'hidden_size': tower['width'],
            'intermediate_size': int(tower['width'] * tower['mlp_ratio']),
            'num_hidden_layers': tower['layers'],
            'num_attention_heads': tower['heads'],
            'projection_dim': embed_dim,
            'hidden_act': 'quick_gelu' if architecture['quick_gelu'] else 'gelu',
            'layer_norm_eps': LAYER_NORM_EPSILON,
        }

    end = text['vocab_size'] - 1  # the last two ids of CLIP's BPE are start and end of text
    return {
        'architectures': ['CLIPModel'],
        'model_type': 'clip',
        'projection_dim': embed_dim,
        'logit_scale_init_value': INITIAL_LOG_SCALE,
        'vision_config': part(image, 'vision')
        | {'image_size': image['image_size'], 'patch_size': image['patch_size'], 'num_channels': 3},
        'text_config': part(text, 'text')
        | {
            'max_position_embeddings': text['context_length'],
            'vocab_size': text['vocab_size'],
            'bos_token_id': end - 1,
            'eos_token_id': end,
            'pad_token_id': 0,
        },
    }
