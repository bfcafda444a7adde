"""CLIP: an image tower and a text tower that meet in one embedding space."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgs.errors import UserError
from pgs.masking.selection import PatchSelection
from pgs.models import tpu_attention
from pgs.models.image_tower import ImageTower, ImageTowerSettings
from pgs.models.text_tower import TextTower, TextTowerSettings
from pgs.models.transformer import REMAT_POLICIES, TransformerSettings

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # paper's recipe table, for pixels in [0, 1]
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_LOG_SCALE = math.log(1 / 0.07)
MAX_LOG_SCALE = math.log(100.0)
ATTENTIONS = ('auto', 'pallas')  # see config.model.attention


def normalize_images(images_BxHxWx3: jax.Array | np.ndarray) -> jax.Array:
    """uint8 pixels (B, H, W, 3) to float32 of about zero mean and unit deviation (CLIP's values)."""
    mean = jnp.array(PIXEL_MEAN, jnp.float32) * 255.0
    std = jnp.array(PIXEL_STD, jnp.float32) * 255.0
    return (jnp.asarray(images_BxHxWx3).astype(jnp.float32) - mean) / std


def unit_norm(x: jax.Array) -> jax.Array:
    """L2-normalised along the last axis; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class CLIP(nn.Module):
    """Both towers and the scale of the logits."""

    image: ImageTowerSettings
    text: TextTowerSettings

    def setup(self):
        self.image_tower = ImageTower(self.image)
        self.text_tower = TextTower(self.text)
        self.log_scale = self.param(
            'logit_scale', nn.initializers.constant(INITIAL_LOG_SCALE), (), jnp.float32
        )

    @property
    def embed_dim(self) -> int:
        """Width of the embedding that both towers share."""
        return self.image.embed_dim

    def embed_images(self, images_BxHxWx3: jax.Array, select: Callable | None = None) -> jax.Array:
        """Normalised float images (B, H, W, 3) -> unit float32 (B, embed_dim).

        `select` as in __call__; None keeps all patches.
        """
        return unit_norm(self.image_tower(images_BxHxWx3, select)[0])

    def embed_texts(self, tokens_BxT: jax.Array, budget: int | None = None) -> jax.Array:
        """int32 tokens (B, T), T <= context_length -> unit float32 (B, embed_dim).

        `budget` as of TextTower; None cuts nothing.
        """
        return unit_norm(self.text_tower(tokens_BxT, budget))

    def select_patches(self, images_BxHxWx3: jax.Array, select: Callable) -> PatchSelection:
        """What `select` keeps of each image; jit drops the tower behind the patch embedding."""
        selection = self.image_tower(images_BxHxWx3, select)[1]
        assert selection is not None
        return selection

    def __call__(
        self, images_BxHxWx3: jax.Array, tokens_BxT: jax.Array, select: Callable | None = None
    ) -> dict[str, Any]:
        """Embeds a batch of pairs, captions packed if text.tokens_per_pair is set.

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
            'text_features': self.embed_texts(tokens_BxT, self.text.tokens_per_pair),
            'logit_scale': jnp.exp(self.log_scale),
            'selection': selection,
        }


def build_model(settings: Mapping[str, Any], *, dtype: Any, platform: str = '') -> CLIP:
    """The model that config.model describes.

    Args:
      settings: config.model: embed_dim, image, text, remat, quick_gelu; unroll if it is not 0,
        attention if it is not 'auto' and text.tokens_per_pair if it is not None; its dtype is not read.
      dtype: of the computation.
      platform: 'tpu' for the form of the program that a TPU trains fastest. Results differ from those
        of the other form by rounding.

    Raises:
      UserError: a patch size, head count, remat policy or attention that does not fit.
    """
    image, text = settings['image'], settings['text']
    check_settings(settings)
    on_tpu = platform == 'tpu'
    kernel = settings.get('attention', 'auto') == 'pallas'
    if kernel:
        check_kernel(settings, platform)

    def transformer(tower: Mapping[str, Any], *, causal: bool) -> TransformerSettings:
        return TransformerSettings(
            width=tower['width'],
            layers=tower['layers'],
            heads=tower['heads'],
            mlp_ratio=tower['mlp_ratio'],
            causal=causal,
            quick_gelu=settings['quick_gelu'],
            dtype=dtype,
            remat=settings['remat'],
            unroll=settings.get('unroll', 0) or (tower['layers'] if on_tpu else 1),
            kernel=kernel,
            for_tpu=on_tpu,
        )

    return CLIP(
        image=ImageTowerSettings(
            image_size=image['image_size'],
            patch_size=image['patch_size'],
            embed_dim=settings['embed_dim'],
            transformer=transformer(image, causal=False),
        ),
        text=TextTowerSettings(
            context_length=text['context_length'],
            vocab_size=text['vocab_size'],
            embed_dim=settings['embed_dim'],
            transformer=transformer(text, causal=True),
            tokens_per_pair=text.get('tokens_per_pair'),
        ),
    )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises UserError for settings that do not fit each other; arguments as for build_model."""
    size, patch = settings['image']['image_size'], settings['image']['patch_size']
    if patch < 1 or size < patch or size % patch:
        fitting = max(size // max(patch, 1), 1) * max(patch, 1)
        raise UserError(
            f'model.image.image_size={size} is not a multiple of model.image.patch_size={patch}: '
            f'take {fitting} or {fitting + patch}, or another patch size'
        )
    budget, length = settings['text'].get('tokens_per_pair'), settings['text']['context_length']
    if budget is not None and budget > length:
        raise UserError(
            f'model.text.tokens_per_pair={budget} is above model.text.context_length={length}: '
            'lower it; None computes context_length tokens of each caption'
        )
    unroll = settings.get('unroll', 0)
    for name in ('image', 'text'):
        layers = settings[name]['layers']
        if 0 < unroll < layers and layers % unroll:
            fitting = [str(n) for n in range(1, layers + 1) if layers % n == 0]
            raise UserError(
                f'model.unroll={unroll} does not divide the {layers} layers of the {name} tower: '
                f'take {", ".join(fitting)}, or 0 for what is best on the platform'
            )
        width, heads = settings[name]['width'], settings[name]['heads']
        if heads < 1 or width % heads:
            raise UserError(
                f'model.{name}.width={width} does not split into model.{name}.heads={heads}: '
                'change one of them'
            )
    if settings['remat'] not in REMAT_POLICIES:
        raise UserError(
            f'model.remat={settings["remat"]!r} is unknown: known are {", ".join(REMAT_POLICIES)}'
        )


def check_kernel(settings: Mapping[str, Any], platform: str) -> None:
    """Raises UserError where model.attention='pallas' does not run; arguments as for build_model."""
    if platform != 'tpu':
        raise UserError(
            f"model.attention='pallas' is a kernel for TPUs, and this is {platform or 'no TPU'}: "
            "take model.attention='auto'"
        )
    for name in ('image', 'text'):
        tpu_attention.check(name, settings[name]['width'], settings[name]['heads'])
