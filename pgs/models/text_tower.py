"""Causal transformer that embeds a caption at its end-of-text token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgs.models.transformer import Transformer, layer_norm, normal_param


class TextTower(nn.Module):
    """CLIP's text tower (paper's recipe table).

    Attributes:
      context_length: tokens of a caption, start, end and padding included.
      vocab_size: the end-of-text token has the highest id in it.
      width, layers, heads, mlp_ratio: of the transformer.
      embed_dim: width of the shared embedding.
      dtype, remat, quick_gelu: as in Transformer.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float
    embed_dim: int
    dtype: Any
    remat: str
    quick_gelu: bool

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        """Embeds captions: int32 (B, context_length) -> float32 (B, embed_dim), not normalised."""
        table = normal_param(self, 'token_embedding', (self.vocab_size, self.width), 0.02)
        positions = normal_param(self, 'positions', (self.context_length, self.width), 0.01)
        x_BxTxD = (table[tokens_BxT] + positions).astype(self.dtype)
        x_BxTxD = Transformer(
            self.layers,
            self.heads,
            self.mlp_ratio,
            True,
            self.quick_gelu,
            self.dtype,
            self.remat,
            name='transformer',
        )(x_BxTxD, (None,))
        # The end-of-text token has the highest id; causal attention makes what follows it irrelevant.
        end_B = tokens_BxT.argmax(axis=-1)
        x_BxD = jnp.take_along_axis(x_BxTxD, end_B[:, None, None], axis=1)[:, 0]
        pooled = layer_norm(jnp.float32, 'ln_final')(x_BxD)
        projection = normal_param(
            self, 'projection', (self.width, self.embed_dim), self.width**-0.5
        )
        return pooled @ projection
