"""Attention within the sequences of a row, by the fastest implementation of the platform.

Shapes: B rows or sequences, T tokens, H heads, D width of a token or, in attention, of a head.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from pgs.models.products import of_matrices

# Runs of equally long sequences that lie end to end in a row of tokens: (sequences, tokens) each.
# All operations but attention work token by token, so that sequences of different lengths share
# their matrix products without padding.
Segments = tuple[tuple[int, int], ...]


class QueriesKeysValues(nn.Module):
    """A dense layer to three times the width, cut into its parts. Its parameters are those of nn.Dense.

    (B, T, D) -> for each segment its queries, keys and values, (B * sequences, tokens, D) each.
    """

    segments: Segments
    separate: bool  # a product for each part, see TransformerSettings.for_tpu
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> list[tuple[jax.Array, ...]]:
        width = x_BxTxD.shape[-1]
        kernel = self.param('kernel', self.kernel_init, (width, 3 * width), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (3 * width,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x_BxTxD, kernel, bias, dtype=self.dtype)
        if self.separate:
            parts = list(zip(jnp.split(kernel, 3, axis=1), jnp.split(bias, 3), strict=True))
            return [
                tuple(segment @ weight + shift for weight, shift in parts)
                for segment in sequences(x, self.segments)
            ]
        # Split first: with a single rearrange to (3, ...) XLA copies the complete array.
        qkv = jnp.split(of_matrices(x, kernel) + bias, 3, axis=-1)
        return list(zip(*(sequences(part, self.segments) for part in qkv), strict=True))


def sequences(x_BxTxD: jax.Array, segments: Segments) -> list[jax.Array]:
    """The sequences of each segment of the rows, (B * sequences, tokens, D)."""
    cut, start = [], 0
    for count, tokens in segments:
        part = x_BxTxD[:, start : start + count * tokens]
        cut.append(rearrange(part, 'b (n t) d -> (b n) t d', n=count))
        start += count * tokens
    return cut


def attention(
    q_BxTxHxD: jax.Array,
    k_BxTxHxD: jax.Array,
    v_BxTxHxD: jax.Array,
    lengths_B: jax.Array | None,
    *,
    causal: bool,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention by the platform's fastest implementation, see `fused`: (B, T, H, D).

    Args:
      q_BxTxHxD, k_BxTxHxD, v_BxTxHxD: of one dtype.
      lengths_B: int32, the first tokens that the others attend to; None: all.
      causal: each token attends to itself and those before it.
      mask: bool (B, 1, T, T), what each token attends to, in place of lengths_B and causal.
    """
    if mask is not None:
        return jax.nn.dot_product_attention(q_BxTxHxD, k_BxTxHxD, v_BxTxHxD, mask=mask)
    implementation, tokens = fused(q_BxTxHxD), q_BxTxHxD.shape[1]
    qkv: tuple[jax.Array, ...] = (q_BxTxHxD, k_BxTxHxD, v_BxTxHxD)
    if implementation == 'cudnn' and tokens % 2:
        # JAX refuses cuDNN's gradient for odd numbers of tokens, so one is added that none sees.
        qkv = tuple(jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in qkv)
        if lengths_B is None and not causal:
            lengths_B = jnp.full(q_BxTxHxD.shape[:1], tokens, jnp.int32)
    out_BxTxHxD = jax.nn.dot_product_attention(
        *qkv, is_causal=causal, key_value_seq_lengths=lengths_B, implementation=implementation
    )
    return out_BxTxHxD[:, :tokens]


def first_token_attention(q_BxTxHxD: jax.Array, k_BxTxHxD: jax.Array) -> jax.Array:
    """Softmax attention of the first token to each later one, mean over heads: float32 (B, T - 1)."""
    logits_BxHxT = jnp.einsum(
        'bhd,bthd->bht', q_BxTxHxD[:, 0], k_BxTxHxD, preferred_element_type=jnp.float32
    )
    weights_BxHxT = jax.nn.softmax(logits_BxHxT * q_BxTxHxD.shape[-1] ** -0.5, axis=-1)
    return weights_BxHxT[:, :, 1:].mean(axis=1)


def fused(q_BxTxHxD: jax.Array) -> Literal['cudnn'] | None:
    """'cudnn' where cuDNN's flash attention takes these arrays, None for XLA's own.

    JAX leaves the choice to the caller. cuDNN requires half precision and a head width that is a
    multiple of 8 and at most 128. It takes lengths, but computes a mask as a bias of full size,
    which is why padding stands at the end of a sequence.
    """
    width = q_BxTxHxD.shape[-1]
    fits = q_BxTxHxD.dtype == jnp.bfloat16 and width % 8 == 0 and width <= 128
    return 'cudnn' if fits and jax.default_backend() == 'gpu' else None
