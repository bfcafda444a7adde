"""Vision transformer that embeds an image from the patches that a strategy keeps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from pgs.masking.budget import arrange, take
from pgs.masking.similarity import pixel_patches
from pgs.masking.strategies import PatchSelection
from pgs.models.transformer import Transformer, layer_norm, normal_param


class ImageTower(nn.Module):
    """ViT with class token, learned positions, ln_pre and ln_post (paper's recipe table).

    Attributes:
      image_size, patch_size: pixels; patch_size divides image_size.
      width, layers, heads, mlp_ratio: of the transformer.
      embed_dim: width of the shared embedding.
      dtype, remat, quick_gelu: as in Transformer.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float
    embed_dim: int
    dtype: Any
    remat: str
    quick_gelu: bool

    @nn.compact
    def __call__(
        self,
        images_BxHxWx3: jax.Array,
        select: Callable[[jax.Array, jax.Array], PatchSelection] | None = None,
    ) -> tuple[jax.Array, PatchSelection | None]:
        """Embeds images.

        Args:
          images_BxHxWx3: float32, normalised by the CLIP mean and standard deviation.
          select: (images, patch embeddings after positions) -> PatchSelection; None keeps all.

        Returns:
          (float32 (B, embed_dim), not yet normalised; the selection).
        """
        width = self.width
        length = (self.image_size // self.patch_size) ** 2

        # A convolution whose stride is its kernel is one matrix product over flattened patches.
        patches = pixel_patches(images_BxHxWx3, self.patch_size).astype(self.dtype)
        x_BxLxD = nn.Dense(
            width, use_bias=False, dtype=self.dtype, name='patch_embedding',
            kernel_init=nn.initializers.normal(patches.shape[-1] ** -0.5),
        )(patches)  # fmt: skip
        class_token = normal_param(self, 'class_token', (width,), width**-0.5)
        positions = normal_param(self, 'positions', (length + 1, width), width**-0.5)
        x_BxLxD = x_BxLxD + positions[1:].astype(self.dtype)

        class_D = (class_token + positions[0]).astype(self.dtype)

        # From here on the tower sees the kept patches alone: its work falls with what is masked.
        selection = None
        if select is not None:
            with jax.named_scope('patch_selection'):
                selection = select(images_BxHxWx3, x_BxLxD)
        where = segments = None
        valid: tuple[jax.Array | None, ...] = (None,)
        if selection is None or selection.keep_ids.shape[1] == length:
            x_BxTxD = with_class(class_D, x_BxLxD)
        elif selection.buckets is None:
            kept = jnp.take_along_axis(x_BxLxD, selection.keep_ids[:, :, None], axis=1)
            x_BxTxD = with_class(class_D, kept)
            valid = (with_class_slot(selection.valid),)
        else:
            # A row is now a group of images, the short ones first, end to end.
            where = arrange(selection.keep_ids, selection.valid, length, selection.buckets)
            runs, segments = [], []
            for ids_GxRxK in (where.short_ids, where.long_ids):
                tokens = with_class(class_D, take(x_BxLxD, ids_GxRxK))
                runs.append(tokens.reshape(ids_GxRxK.shape[0], -1, width))
                segments.append((ids_GxRxK.shape[1], tokens.shape[1]))
            x_BxTxD = jnp.concatenate(runs, axis=1)
            segments = tuple(s for s in segments if s[0])
            valid = (None, with_class_slot(rearrange(where.long_valid, 'g n k -> (g n) k')))
            valid = valid[: len(segments)]

        x_BxTxD = layer_norm(self.dtype, 'ln_pre')(x_BxTxD)
        x_BxTxD = Transformer(
            self.layers,
            self.heads,
            self.mlp_ratio,
            False,
            self.quick_gelu,
            self.dtype,
            self.remat,
            segments,
            name='transformer',
        )(x_BxTxD, valid)
        if where is None:
            pooled = x_BxTxD[:, 0]
        else:
            starts = np.cumsum([0, *(t for count, t in segments for _ in range(count))])[:-1]
            pooled = jnp.take_along_axis(x_BxTxD[:, starts], where.inverse[:, :, None], axis=1)
            pooled = rearrange(pooled, 'g n d -> (g n) d')
        pooled = layer_norm(jnp.float32, 'ln_post')(pooled)
        projection = normal_param(self, 'projection', (width, self.embed_dim), width**-0.5)
        return pooled @ projection, selection


def with_class(class_D: jax.Array, x_BxKxD: jax.Array) -> jax.Array:
    """The class token before each sequence of patches, (B, K + 1, D)."""
    class_Bx1xD = jnp.broadcast_to(class_D, (x_BxKxD.shape[0], 1, class_D.shape[0]))
    return jnp.concatenate([class_Bx1xD, x_BxKxD], axis=1)


def with_class_slot(valid_BxK: jax.Array | None) -> jax.Array | None:
    """The same for `valid`: the class token always counts."""
    if valid_BxK is None:
        return None
    return jnp.pad(valid_BxK, ((0, 0), (1, 0)), constant_values=True)
