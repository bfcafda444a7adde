"""The pre-norm transformer that both towers share."""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from pgs.sharding import shard_batch

# Flax's collection for values within a module; the blocks leave their CLASS_ATTENTION there for a
# caller that asks for it, see class_attention.py. Otherwise it is not computed.
INTERMEDIATES, CLASS_ATTENTION = 'intermediates', 'class_attention'

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which OpenCLIP's weights expect

# What a layer stores for the backward pass; None stores everything (no rematerialisation).
REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """Settings of a stack of blocks.

    Attributes:
      width: of the tokens, D.
      layers: number of blocks.
      heads: attention heads; divides the width.
      mlp_ratio: hidden width of the MLP over the width.
      causal: each position attends to itself and the positions before it.
      quick_gelu: the MLP has QuickGELU, as OpenAI's CLIP does, instead of the exact GELU.
      dtype: of the computation; parameters are float32, softmax and norms run in float32.
      remat: what the backward pass recomputes, a name in REMAT_POLICIES.
      unroll: blocks that the compiled program has one after the other before it loops. Parameters
        and checkpoints are the same with any number.
    """

    width: int
    layers: int
    heads: int
    mlp_ratio: float
    causal: bool
    quick_gelu: bool
    dtype: Any
    remat: str
    unroll: int = 1


# Runs of equally long sequences that lie end to end in a row of tokens: (sequences, tokens) each.
# All operations but attention work token by token, so that sequences of different lengths share
# their matrix products without padding. None where a row is a single sequence.
Segments = tuple[tuple[int, int], ...] | None


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    settings: TransformerSettings
    segments: Segments

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        lengths: tuple[jax.Array | None, ...],
        mask: jax.Array | None,
    ) -> tuple[jax.Array, None]:
        s, width = self.settings, self.settings.width
        x_BxTxD = shard_batch(x_BxTxD)  # so that the weights are gathered, not the activations

        def dense(features, std, name):
            init = nn.initializers.normal(std)
            return nn.Dense(features, dtype=s.dtype, kernel_init=init, name=name)

        # CLIP's initialisation (arXiv 2103.00020, its published code), by width and depth.
        residual_std = width**-0.5 * (2 * s.layers) ** -0.5

        h = layer_norm(s.dtype, 'ln_1')(x_BxTxD)
        qkv = dense(3 * width, width**-0.5, 'qkv')(h)
        h = self.attend(qkv, lengths, mask)
        x_BxTxD = x_BxTxD + dense(width, residual_std, 'out')(h)

        h = layer_norm(s.dtype, 'ln_2')(x_BxTxD)
        h = dense(int(width * s.mlp_ratio), (2 * width) ** -0.5, 'fc')(h)
        h = quick_gelu(h) if s.quick_gelu else gelu(h)
        x_BxTxD = x_BxTxD + dense(width, residual_std, 'proj')(h)
        return x_BxTxD, None

    def attend(
        self,
        qkv_BxTx3D: jax.Array,
        lengths: tuple[jax.Array | None, ...],
        mask: jax.Array | None,
    ) -> jax.Array:
        """Attention within each sequence, (B, T, D)."""
        segments, results, start = self.segments or ((1, qkv_BxTx3D.shape[1]),), [], 0
        for (count, tokens), lengths_N in zip(segments, lengths, strict=True):
            part = qkv_BxTx3D[:, start : start + count * tokens]
            start += count * tokens
            # Split first: with a single rearrange to (3, ...) XLA copies the complete array.
            q, k, v = (
                rearrange(x, 'b (n t) (h d) -> (b n) t h d', n=count, h=self.settings.heads)
                for x in jnp.split(part, 3, axis=-1)
            )
            if self.is_mutable_collection(INTERMEDIATES):
                self.sow(INTERMEDIATES, CLASS_ATTENTION, first_token_attention(q, k))
            out = attention(q, k, v, lengths_N, causal=self.settings.causal, mask=mask)
            results.append(rearrange(out, '(b n) t h d -> b (n t) (h d)', n=count))
        return jnp.concatenate(results, axis=1)


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


@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x * Phi(x).

    Written with erf: jax.nn.gelu uses erfc, with which XLA on a CPU takes 2.8 times as long for the
    gradient of an MLP of width 128 (measured on the MLP only, batch 256 x 47 tokens, 2 cores; within
    the full step the difference was below the noise). The backward pass recomputes it, and so stores
    only x instead of four arrays of its size.
    """
    return 0.5 * x * (1.0 + jax.lax.erf(x * (0.5**0.5)))


@functools.partial(jax.checkpoint, prevent_cse=False)
def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI's approximation of GELU, x * sigmoid(1.702 x); recomputed in the backward pass."""
    return x * jax.nn.sigmoid(1.702 * x)


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """Layer norm with float32 statistics, gain and bias."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=dtype, name=name)


class Transformer(nn.Module):
    """A stack of blocks in one `nn.scan`: parameters (layers, ...), one compiled block at any depth."""

    settings: TransformerSettings
    segments: Segments = None

    @nn.compact
    def __call__(
        self,
        x_BxTxD: jax.Array,
        lengths: tuple[jax.Array | None, ...],
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Runs all blocks.

        Args:
          x_BxTxD: tokens.
          lengths: for each segment int32 (sequences,), the number of first tokens of a sequence that
            the others attend to, those behind are padding; None where all are.
          mask: bool (B, 1, T, T) for rows of several sequences, in place of lengths and of causal
            attention.
        """
        s = self.settings
        block = Block
        if s.remat != 'none':
            block = nn.remat(Block, policy=REMAT_POLICIES[s.remat], prevent_cse=False)
        stack = nn.scan(
            block,
            variable_axes={'params': 0, INTERMEDIATES: 0},
            split_rngs={'params': True},
            in_axes=nn.broadcast,
            length=s.layers,
            unroll=min(s.unroll, s.layers),
        )
        blocks = stack(s, self.segments, name='blocks')
        x_BxTxD, _ = blocks(x_BxTxD.astype(s.dtype), lengths, mask)
        return x_BxTxD


def normal_param(module: nn.Module, name: str, shape: tuple[int, ...], std: float) -> jax.Array:
    """A float32 parameter of the module, drawn from a normal distribution."""
    return module.param(name, nn.initializers.normal(std), shape, jnp.float32)
