"""The pre-norm transformer that both towers share."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from pgs.models import tpu_attention
from pgs.models.attention import (
    QueriesKeysValues,
    Segments,
    attention,
    first_token_attention,
)
from pgs.models.products import dot_general_of
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
      kernel: attention runs in the TPU's kernel of `tpu_attention` where there is no mask and the
        kernel pays.
      for_tpu: the products have the form that a TPU computes fastest (products.py), and queries, keys
        and values are three products with parts of one weight, and not parts of one product: a TPU's
        attention then takes each in the layout that its product wrote.
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
    kernel: bool = False
    for_tpu: bool = False


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    settings: TransformerSettings
    segments: Segments | None  # None: a row is a single sequence

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
            init, product = nn.initializers.normal(std), dot_general_of(for_tpu=s.for_tpu)
            return nn.Dense(
                features, dtype=s.dtype, kernel_init=init, dot_general=product, name=name
            )

        # CLIP's initialisation (arXiv 2103.00020, its published code), by width and depth.
        residual_std = width**-0.5 * (2 * s.layers) ** -0.5

        h = layer_norm(s.dtype, 'ln_1')(x_BxTxD)
        segments = self.segments or ((1, x_BxTxD.shape[1]),)
        init = nn.initializers.normal(width**-0.5)
        qkv = QueriesKeysValues(segments, s.for_tpu, s.dtype, init, name='qkv')(h)
        h = self.attend(segments, qkv, lengths, mask)
        x_BxTxD = x_BxTxD + dense(width, residual_std, 'out')(h)

        h = layer_norm(s.dtype, 'ln_2')(x_BxTxD)
        h = dense(int(width * s.mlp_ratio), (2 * width) ** -0.5, 'fc')(h)
        h = quick_gelu(h) if s.quick_gelu else gelu(h)
        x_BxTxD = x_BxTxD + dense(width, residual_std, 'proj')(h)
        return x_BxTxD, None

    def attend(
        self,
        segments: Segments,
        qkv: list[tuple[jax.Array, ...]],
        lengths: tuple[jax.Array | None, ...],
        mask: jax.Array | None,
    ) -> jax.Array:
        """Attention within each sequence, (B, T, D), from the queries, keys and values of each segment."""
        s, results = self.settings, []
        for (count, _), parts, lengths_N in zip(segments, qkv, lengths, strict=True):
            q, k, v = (rearrange(x, 'n t (h d) -> n t h d', h=s.heads) for x in parts)
            if self.is_mutable_collection(INTERMEDIATES):
                self.sow(INTERMEDIATES, CLASS_ATTENTION, first_token_attention(q, k))
            if s.kernel and mask is None and tpu_attention.pays(q):
                out = tpu_attention.attention(q, k, v, lengths_N, causal=s.causal)
            else:
                out = attention(q, k, v, lengths_N, causal=s.causal, mask=mask)
            results.append(rearrange(out, '(b n) t h d -> b (n t) (h d)', n=count))
        return jnp.concatenate(results, axis=1)


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
    segments: Segments | None = None

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
