"""CLIP: an image tower and a text tower that meet in one embedding space."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgs.errors import UserError
from pgs.masking.strategies import PatchSelection
from pgs.models.image_tower import ImageTower
from pgs.models.text_tower import TextTower
from pgs.models.transformer import REMAT_POLICIES

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # paper's recipe table, for pixels in [0, 1]
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_LOG_SCALE = math.log(1 / 0.07)
MAX_LOG_SCALE = math.log(100.0)


def normalize_images(images_BxHxWx3: jax.Array) -> jax.Array:
    """uint8 pixels (B, H, W, 3) to float32 of about zero mean and unit deviation (CLIP's figures)."""
    mean = jnp.array(PIXEL_MEAN, jnp.float32) * 255.0
    std = jnp.array(PIXEL_STD, jnp.float32) * 255.0
    return (images_BxHxWx3.astype(jnp.float32) - mean) / std


def unit_norm(x: jax.Array) -> jax.Array:
    """L2-normalised along the last axis; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class CLIP(nn.Module):
    """Both towers. Attributes: keyword arguments of ImageTower and TextTower, as plain dicts."""

    embed_dim: int
    image: Any
    text: Any
    dtype: Any = jnp.float32
    remat: str = 'none'
    quick_gelu: bool = False

    def setup(self):
        common = {'embed_dim': self.embed_dim, 'dtype': self.dtype, 'remat': self.remat}
        common['quick_gelu'] = self.quick_gelu
        self.image_tower = ImageTower(**self.image, **common)
        self.text_tower = TextTower(**self.text, **common)
        self.log_scale = self.param(
            'logit_scale', nn.initializers.constant(INITIAL_LOG_SCALE), (), jnp.float32
        )

    def embed_images(self, images_BxHxWx3: jax.Array) -> jax.Array:
        """Normalised float images (B, H, W, 3) -> unit float32 (B, embed_dim), all patches seen."""
        return unit_norm(self.image_tower(images_BxHxWx3)[0])

    def embed_texts(self, tokens_BxT: jax.Array) -> jax.Array:
        """int32 tokens (B, context_length) -> unit float32 (B, embed_dim)."""
        return unit_norm(self.text_tower(tokens_BxT))

    def select_patches(self, images_BxHxWx3: jax.Array, select: Callable) -> PatchSelection:
        """What `select` keeps of each image; jit drops the tower behind the patch embedding."""
        return self.image_tower(images_BxHxWx3, select)[1]

    def __call__(
        self, images_BxHxWx3: jax.Array, tokens_BxT: jax.Array, select: Callable | None = None
    ) -> dict[str, Any]:
        """Embeds a batch of pairs.

        Args:
          images_BxHxWx3: float32, see `normalize_images`.
          tokens_BxT: int32 token ids.
          select: (images, patch embeddings) -> PatchSelection; None keeps all patches.

        Returns:
          image_features, text_features: float32 (B, embed_dim), unit norm; logit_scale: float32
          scalar, the factor itself and not its logarithm; selection: PatchSelection or None.
        """
        image_features, selection = self.image_tower(images_BxHxWx3, select)
        return {
            'image_features': unit_norm(image_features),
            'text_features': self.embed_texts(tokens_BxT),
            'logit_scale': jnp.exp(self.log_scale),
            'selection': selection,
        }


def build_model(model_config, *, dtype: Any) -> CLIP:
    """The model that config.model describes.

    Args:
      model_config: mapping with embed_dim, image, text, remat, quick_gelu.
      dtype: of the computation.

    Raises:
      UserError: patch size, head count or remat policy that does not fit.
    """
    image, text = dict(model_config['image']), dict(model_config['text'])
    size, patch = image['image_size'], image['patch_size']
    if patch < 1 or size < patch or size % patch:
        fitting = max(size // max(patch, 1), 1) * max(patch, 1)
        raise UserError(
            f'model.image.image_size={size} is no multiple of model.image.patch_size={patch}: '
            f'take {fitting} or {fitting + patch}, or another patch size'
        )
    for name, tower in (('image', image), ('text', text)):
        if tower['heads'] < 1 or tower['width'] % tower['heads']:
            raise UserError(
                f'model.{name}.width={tower["width"]} does not split into '
                f'model.{name}.heads={tower["heads"]}: change one of them'
            )
    if model_config['remat'] not in REMAT_POLICIES:
        raise UserError(
            f'model.remat={model_config["remat"]!r} is unknown: known are {", ".join(REMAT_POLICIES)}'
        )
    return CLIP(
        model_config['embed_dim'],
        image,
        text,
        dtype,
        model_config['remat'],
        model_config['quick_gelu'],
    )
