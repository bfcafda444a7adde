"""Causal transformer that embeds a caption at its end-of-text token."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgs.models import packing
from pgs.models.transformer import Transformer, TransformerSettings, layer_norm, normal_param


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTowerSettings:
    """Settings of the text tower.

    Attributes:
      context_length: tokens of a caption, with start, end and padding.
      tokens_per_pair: tokens that training computes for a caption on average, packed without
        padding (packing.py); None: context_length for each.
      vocab_size: number of token ids; the end-of-text token has the highest one.
      embed_dim: width of the embedding that both towers share.
      transformer: settings of its blocks.
    """

    context_length: int
    vocab_size: int
    embed_dim: int
    transformer: TransformerSettings
    tokens_per_pair: int | None = None


class TextTower(nn.Module):
    """CLIP's text tower (paper's recipe table)."""

    settings: TextTowerSettings

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array, budget: int | None = None) -> jax.Array:
        """Embeds captions: int32 (B, T) -> float32 (B, embed_dim), not normalised.

        Shorter rows, T < context_length, use the first T position embeddings.

        Args:
          tokens_BxT: start token, caption, end token, zeros.
          budget: tokens a caption on average, which are computed packed; what does not fit is cut
            (packing.py). None, or T and more: each caption has T, and none is cut.
        """
        s, width = self.settings, self.settings.transformer.width
        table = normal_param(self, 'token_embedding', (s.vocab_size, width), 0.02)
        positions = normal_param(self, 'positions', (s.context_length, width), 0.01)
        length = tokens_BxT.shape[1]
        if budget is None or budget >= length:
            x_BxTxD = (table[tokens_BxT] + positions[:length]).astype(s.transformer.dtype)
            x_BxTxD = Transformer(s.transformer, name='transformer')(x_BxTxD, (None,))
            # The end token has the highest id. Attention is causal: what follows it is unseen.
            ends_Bx1 = tokens_BxT.argmax(axis=-1)[:, None]
        else:
            packed = packing.pack(tokens_BxT, budget)
            x = (table[packed.tokens] + positions[packed.positions]).astype(s.transformer.dtype)
            mask = packing.caption_mask(packed.captions)
            x = Transformer(s.transformer, name='transformer')(x, (None,), mask)
            ends_Bx1 = packed.ends_gxn
            x_BxTxD = x.reshape(len(ends_Bx1), -1, width)  # the rows of a group end to end
        x_BxD = jnp.take_along_axis(x_BxTxD, ends_Bx1[..., None], axis=1).reshape(-1, width)
        pooled_BxD = layer_norm(jnp.float32, 'ln_final')(x_BxD)
        projection = normal_param(self, 'projection', (width, s.embed_dim), width**-0.5)
        return pooled_BxD @ projection
