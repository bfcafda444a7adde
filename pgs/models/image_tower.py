"""Vision transformer that embeds an image from the patches that a strategy keeps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
      dtype, remat: as in Transformer.
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

        first = (class_token + positions[0]).astype(self.dtype)
        ln_pre, ln_post = layer_norm(self.dtype, 'ln_pre'), layer_norm(jnp.float32, 'ln_post')
        transformer = Transformer(
            self.layers,
            self.heads,
            self.mlp_ratio,
            False,
            self.dtype,
            self.remat,
            name='transformer',
        )

        def encode(x_BxKxD: jax.Array, valid_BxK: jax.Array | None = None) -> jax.Array:
            """Embeds the patches given and pools at the class token, (B, D)."""
            class_Bx1xD = jnp.broadcast_to(first, (x_BxKxD.shape[0], 1, width))
            x_BxTxD = ln_pre(jnp.concatenate([class_Bx1xD, x_BxKxD], axis=1))
            valid_BxT = None
            if valid_BxK is not None:
                valid_BxT = jnp.pad(valid_BxK, ((0, 0), (1, 0)), constant_values=True)
            return ln_post(transformer(x_BxTxD, valid_BxT)[:, 0])

        # From here on the tower sees the kept patches alone: its work falls with what is masked.
        selection = None if select is None else select(images_BxHxWx3, x_BxLxD)
        if selection is None or selection.keep_ids.shape[1] == length:
            pooled = encode(x_BxLxD)
        elif selection.buckets is None:
            kept = jnp.take_along_axis(x_BxLxD, selection.keep_ids[:, :, None], axis=1)
            pooled = encode(kept, selection.valid)
        else:
            where = arrange(selection.keep_ids, selection.valid, length, selection.buckets)
            short = encode(take(x_BxLxD, where.short_ids))
            valid = where.long_valid.reshape(-1, where.long_valid.shape[-1])
            long = encode(take(x_BxLxD, where.long_ids), valid)
            by_group = [part.reshape(*where.inverse.shape[:1], -1, width) for part in (short, long)]
            both = jnp.concatenate(by_group, axis=1)
            pooled = jnp.take_along_axis(both, where.inverse[:, :, None], axis=1).reshape(-1, width)
        projection = normal_param(self, 'projection', (width, self.embed_dim), width**-0.5)
        return pooled @ projection, selection
