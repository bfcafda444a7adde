"""Causal transformer that embeds a caption at its end-of-text token."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgs.models.transformer import Transformer, TransformerSettings, layer_norm, normal_param


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTowerSettings:
    """Settings of the text tower.

    Attributes:
      context_length: tokens of a caption, with start, end and padding.
      vocab_size: number of token ids; the end-of-text token has the highest one.
      embed_dim: width of the embedding that both towers share.
      transformer: settings of its blocks.
    """

    context_length: int
    vocab_size: int
    embed_dim: int
    transformer: TransformerSettings


class TextTower(nn.Module):
    """CLIP's text tower (paper's recipe table)."""

    settings: TextTowerSettings

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        """Embeds captions: int32 (B, T) -> float32 (B, embed_dim), not normalised.

        Shorter rows, T < context_length, use the first T position embeddings.
        """
        s, width = self.settings, self.settings.transformer.width
        table = normal_param(self, 'token_embedding', (s.vocab_size, width), 0.02)
        positions = normal_param(self, 'positions', (s.context_length, width), 0.01)
        x_BxTxD = (table[tokens_BxT] + positions[: tokens_BxT.shape[1]]).astype(s.transformer.dtype)
        x_BxTxD = Transformer(s.transformer, name='transformer')(x_BxTxD, (None,))
        # The end-of-text token has the highest id. Attention is causal, so what follows it is unseen.
        end_B = tokens_BxT.argmax(axis=-1)
        x_BxD = jnp.take_along_axis(x_BxTxD, end_B[:, None, None], axis=1)[:, 0]
        pooled_BxD = layer_norm(jnp.float32, 'ln_final')(x_BxD)
        projection = normal_param(self, 'projection', (width, s.embed_dim), width**-0.5)
        return pooled_BxD @ projection
