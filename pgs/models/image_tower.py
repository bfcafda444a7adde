"""Vision transformer that embeds an image from the patches that a strategy keeps.

Shapes: B images, L patches of an image, K kept patches, T tokens of a row, D width, G groups and
N images of a group in the token budget, R rows that the transformer sees (B images, or G groups).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from pgs.layout import row_major
from pgs.masking.budget import assign_buckets, gather_patches, valid_first
from pgs.masking.selection import PatchSelection
from pgs.masking.similarity import pixel_patches
from pgs.models.attention import Segments
from pgs.models.products import dot_general_of
from pgs.models.transformer import (
    Transformer,
    TransformerSettings,
    layer_norm,
    normal_param,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTowerSettings:
    """Settings of the image tower.

    Attributes:
      image_size, patch_size: pixels; patch_size divides image_size.
      embed_dim: width of the embedding that both towers share.
      transformer: settings of its blocks.
    """

    image_size: int
    patch_size: int
    embed_dim: int
    transformer: TransformerSettings

    @property
    def num_patches(self) -> int:
        """L, patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class TokenRows(NamedTuple):
    """Class tokens and kept patches as rows for the transformer."""

    tokens_RxTxD: jax.Array
    segments: Segments | None  # sequences within a row; None: one
    lengths: tuple[jax.Array | None, ...]  # one for each segment, see Transformer
    inverse_GxN: jax.Array | None = (
        None  # where each image's class token is; None: one row an image
    )


class ImageTower(nn.Module):
    """ViT with class token, learned positions, ln_pre and ln_post (paper's recipe table)."""

    settings: ImageTowerSettings

    @nn.compact
    def __call__(
        self,
        images_BxHxWx3: jax.Array,
        select: Callable[[jax.Array, jax.Array], PatchSelection] | None = None,
    ) -> tuple[jax.Array, PatchSelection | None]:
        """Embeds images.

        Args:
          images_BxHxWx3: float32, normalised by CLIP's mean and standard deviation.
          select: (images, patch embeddings after positions) -> PatchSelection; None keeps all.

        Returns:
          (float32 (B, embed_dim), not yet normalised; the selection or None).
        """
        s, width = self.settings, self.settings.transformer.width
        dtype = s.transformer.dtype

        # A convolution whose stride is its kernel size is one matrix product over flat patches.
        patches = pixel_patches(images_BxHxWx3, s.patch_size)
        if select is not None:
            patches = row_major(patches)  # as strategies read them, so that both share the copy
        patches = patches.astype(dtype)
        init = nn.initializers.normal(patches.shape[-1] ** -0.5)
        dense = nn.Dense(
            width,
            use_bias=False,
            dtype=dtype,
            kernel_init=init,
            dot_general=dot_general_of(for_tpu=s.transformer.for_tpu),
            name='patch_embedding',
        )
        x_BxLxD = dense(patches)
        class_token = normal_param(self, 'class_token', (width,), width**-0.5)
        positions = normal_param(self, 'positions', (s.num_patches + 1, width), width**-0.5)
        x_BxLxD = x_BxLxD + positions[1:].astype(dtype)
        class_D = (class_token + positions[0]).astype(dtype)

        # From here on the tower sees only the kept patches, so its work falls with the mask.
        selection = None
        if select is not None:
            with jax.named_scope('patch_selection'):
                selection = select(images_BxHxWx3, x_BxLxD)
        rows = token_rows(class_D, x_BxLxD, selection)
        x_RxTxD = layer_norm(dtype, 'ln_pre')(rows.tokens_RxTxD)
        blocks = Transformer(s.transformer, rows.segments, name='transformer')
        pooled_BxD = pool_class_tokens(blocks(x_RxTxD, rows.lengths), rows)
        pooled_BxD = layer_norm(jnp.float32, 'ln_post')(pooled_BxD)
        projection = normal_param(self, 'projection', (width, s.embed_dim), width**-0.5)
        return pooled_BxD @ projection, selection


def token_rows(
    class_D: jax.Array, x_BxLxD: jax.Array, selection: PatchSelection | None
) -> TokenRows:
    """Puts the class token before the kept patches of each image.

    With a token budget a row holds a group of images end to end, those of the shortest bucket first;
    otherwise it holds one image.
    """
    length, width = x_BxLxD.shape[1:]
    if selection is None:
        return TokenRows(with_class(class_D, x_BxLxD), None, (None,))
    keep_ids, valid = selection.keep_ids, selection.valid
    if valid is None:
        if keep_ids.shape[1] < length:
            x_BxLxD = jnp.take_along_axis(x_BxLxD, keep_ids[:, :, None], axis=1)
        return TokenRows(with_class(class_D, x_BxLxD), None, (None,))
    if selection.buckets is None:
        first_ids, count_B = valid_first(keep_ids, valid)
        kept_BxKxD = jnp.take_along_axis(x_BxLxD, first_ids[:, :, None], axis=1)
        return TokenRows(with_class(class_D, kept_BxKxD), None, (count_B + 1,))
    assigned = assign_buckets(keep_ids, valid, length, selection.buckets)
    rows, segments, lengths = [], [], []
    for bucket in assigned.buckets:
        groups, images, _ = bucket.ids_GxSxK.shape
        tokens = with_class(class_D, gather_patches(x_BxLxD, bucket.ids_GxSxK))
        rows.append(tokens.reshape(groups, -1, width))
        segments.append((images, tokens.shape[1]))
        count_GxS = bucket.count_GxS
        lengths.append(None if count_GxS is None else count_GxS.reshape(-1) + 1)
    return TokenRows(
        jnp.concatenate(rows, axis=1), tuple(segments), tuple(lengths), assigned.inverse_GxN
    )


def pool_class_tokens(x_RxTxD: jax.Array, rows: TokenRows) -> jax.Array:
    """The class token of every image, in the order of the batch: (B, D)."""
    if rows.inverse_GxN is None or rows.segments is None:
        return x_RxTxD[:, 0]
    starts = np.cumsum([0, *(t for count, t in rows.segments for _ in range(count))])[:-1]
    class_GxNxD = x_RxTxD[:, starts]
    pooled = jnp.take_along_axis(class_GxNxD, rows.inverse_GxN[:, :, None], axis=1)
    return rearrange(pooled, 'g n d -> (g n) d')


def with_class(class_D: jax.Array, x_BxKxD: jax.Array) -> jax.Array:
    """The class token before each sequence of patches: (B, K + 1, D)."""
    class_Bx1xD = jnp.broadcast_to(class_D, (x_BxKxD.shape[0], 1, class_D.shape[0]))
    return jnp.concatenate([class_Bx1xD, x_BxKxD], axis=1)
