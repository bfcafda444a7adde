"""Attention in one Pallas kernel for a TPU: an image's whole sequence lies in the chip's fast memory.

Where the weights of all heads do not fit the fast memory, XLA writes them to the main memory between the
two products, and lays queries and keys out again for them. Here a program reads the tokens of one image as the layers wrote
them, and only the result goes back; the backward pass computes the weights again, as flash attention
does (Dao et al., arXiv 2205.14135). Its blocks and its running maximum are not needed: some hundred
tokens of one head take less than a megabyte.

Two heads of width 64 fill the 128 lanes of a register. They are told apart by zeros and not cut:
a product with the keys of one head, where those of the other are zero, takes the matrix unit no
longer, since it is 128 wide at least.

Shapes: N sequences, T tokens, H heads, D width of a head, W = H * D.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from pgs.errors import UserError
from pgs.sharding import AXES, mesh_size

LANES = 128  # of a register
# Bytes of float32 logits up to which XLA's attention is the faster one on a v5e, because they stay in the
# fast memory; by the compiler's cycles and schedules (docs/performance.md).
FEW_LOGITS = 40 * 2**20
HIDDEN = -1e30  # logit of a token that is not attended to; finite, so that a row of them is no NaN


def check(name: str, width: int, heads: int) -> None:
    """Raises UserError for a tower, 'image' or 'text', whose heads do not fill registers."""
    if width % LANES or LANES % (width // heads):
        raise UserError(
            f"model.attention='pallas' takes heads whose width divides {LANES}, and {LANES} the tower's, "
            f"but model.{name}.width={width} has {heads} heads: take XLA's attention, "
            "model.attention='auto'"
        )


def pays(q_NxTxHxD: jax.Array) -> bool:
    """Whether the kernel is expected to be faster than XLA's attention, by the logits of a device.

    Never where the devices do not divide the sequences, as in the last batch of an evaluation.
    """
    count, tokens, heads, _ = q_NxTxHxD.shape
    if count % mesh_size():
        return False
    row = -(-tokens // LANES) * LANES
    return 4 * (count // mesh_size()) * heads * tokens * row > FEW_LOGITS


def attention(
    q_NxTxHxD: jax.Array,
    k_NxTxHxD: jax.Array,
    v_NxTxHxD: jax.Array,
    lengths_N: jax.Array | None,
    *,
    causal: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention of each head, (N, T, H, D) in the dtype of the values.

    With a mesh in context each device takes its part of the sequences.

    Args:
      q_NxTxHxD, k_NxTxHxD, v_NxTxHxD: of one dtype. D divides 128, which divides H * D.
      lengths_N: int32, the first tokens that the others attend to, at least 1; None: all.
      causal: each token attends to itself and those before it.
      interpret: runs on any platform, slowly, for tests.
    """
    heads = q_NxTxHxD.shape[2]
    # The heads side by side, as the layers wrote them: no copy.
    q, k, v = (rearrange(x, 'n t h d -> n t (h d)') for x in (q_NxTxHxD, k_NxTxHxD, v_NxTxHxD))

    def attend(q, k, v, lengths):
        return _attend(q, k, v, lengths, heads, causal, interpret)

    if not jax.sharding.get_abstract_mesh().empty:
        # XLA cannot divide a kernel by itself: it would gather the whole batch on each device.
        spec = PartitionSpec(AXES)
        attend = jax.shard_map(attend, in_specs=spec, out_specs=spec, check_vma=False)
    out = attend(q, k, v, lengths_N)
    return rearrange(out, 'n t (h d) -> n t h d', h=heads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attend(q, k, v, lengths, heads, causal, interpret):
    kernel = functools.partial(forward, head_width=q.shape[-1] // heads, causal=causal)
    (out,) = call(kernel, lengths, (q, k, v), 1, products=2, heads=heads, interpret=interpret)
    return out


def _forward(q, k, v, lengths, heads, causal, interpret):
    return _attend(q, k, v, lengths, heads, causal, interpret), (q, k, v, lengths)


def _backward(heads, causal, interpret, saved, gradient):
    q, k, v, lengths = saved
    kernel = functools.partial(backward, head_width=q.shape[-1] // heads, causal=causal)
    arrays = (q, k, v, gradient)
    gradients = call(kernel, lengths, arrays, 3, products=5, heads=heads, interpret=interpret)
    return *gradients, None


_attend.defvjp(_forward, _backward)


def call(kernel, lengths, arrays, results: int, *, products: int, heads: int, interpret: bool):
    """Runs a kernel once for each sequence.

    Args:
      kernel: (lengths or None, *arrays, *results), references to those of its sequence.
      lengths: int32 (N,) or None.
      arrays: (N, T, W) each.
      results: number of results, each like an array.
      products: of T x T and the width of a head that the kernel computes for each head.
      heads, interpret: as for `attention`.
    """
    like = arrays[0]
    count, tokens, width = like.shape
    block = pl.BlockSpec((1, tokens, width), lambda n, *_: (n, 0, 0))
    scalars = () if lengths is None else (lengths,)
    body = kernel if scalars else functools.partial(kernel, None)
    return pl.pallas_call(
        body,
        out_shape=[jax.ShapeDtypeStruct(like.shape, like.dtype)] * results,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(count,),
            in_specs=[block] * len(arrays),
            out_specs=[block] * results,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * count * tokens**2 * width,
            transcendentals=count * heads * tokens**2,
            bytes_accessed=(len(arrays) + results) * like.size * like.dtype.itemsize,
        ),
        interpret=interpret,
        name=kernel.func.__name__ + '_attention',
    )(*scalars, *arrays)


def forward(lengths_ref, q_ref, k_ref, v_ref, out_ref, *, head_width: int, causal: bool) -> None:
    """softmax(q k^T / sqrt(head_width)) v of all heads of a sequence."""
    seen = visible(lengths_ref, q_ref.shape[1], causal)
    for lanes, of_head in groups(q_ref.shape[2], head_width):
        q, k, v = (ref[0, :, lanes] for ref in (q_ref, k_ref, v_ref))
        out = jnp.zeros(q.shape, jnp.float32)
        for only in of_head:
            weights, total = softmax(q, only(k), seen, head_width)
            out += product(weights.astype(v.dtype), only(v)) / total
        out_ref[0, :, lanes] = out.astype(out_ref.dtype)


def backward(
    lengths_ref,
    q_ref,
    k_ref,
    v_ref,
    g_ref,
    dq_ref,
    dk_ref,
    dv_ref,
    *,
    head_width: int,
    causal: bool,
) -> None:
    """Gradients of q, k and v, from g, that of the result."""
    seen = visible(lengths_ref, q_ref.shape[1], causal)
    for lanes, of_head in groups(q_ref.shape[2], head_width):
        q, k, v, g = (ref[0, :, lanes] for ref in (q_ref, k_ref, v_ref, g_ref))
        dq, dk, dv = (jnp.zeros(q.shape, jnp.float32) for _ in range(3))
        for only in of_head:
            key, gradient = only(k), only(g)
            weights, total = softmax(q, key, seen, head_width)
            weights = weights / total
            d_weights = product(gradient, v, transpose_second=True)
            own = jnp.sum(weights * d_weights, axis=1, keepdims=True)
            d_logits = (weights * (d_weights - own) * head_width**-0.5).astype(q.dtype)
            dq += product(d_logits, key)
            dk += product(d_logits, only(q), transpose_first=True)
            dv += product(weights.astype(q.dtype), gradient, transpose_first=True)
        for ref, value in ((dq_ref, dq), (dk_ref, dk), (dv_ref, dv)):
            ref[0, :, lanes] = value.astype(ref.dtype)


def groups(width: int, head_width: int) -> Iterator[tuple[slice, list]]:
    """For each 128 lanes their place, and for each head in them what sets the others to zero."""
    head = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) // head_width
    of_head = [
        lambda x, n=n: jnp.where(head == n, x, jnp.zeros_like(x))
        for n in range(LANES // head_width)
    ]
    for start in range(0, width, LANES):
        yield slice(start, start + LANES), of_head


def visible(lengths_ref, tokens: int, causal: bool) -> jax.Array | None:
    """bool (T, T), which tokens (second axis) each token attends to; None: all."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (tokens, tokens), axis) for axis in (0, 1))
    seen = column <= row if causal else None
    if lengths_ref is not None:
        real = column < lengths_ref[pl.program_id(0)]
        seen = real if seen is None else seen & real
    return seen


def softmax(q: jax.Array, k: jax.Array, seen: jax.Array | None, head_width: int) -> tuple:
    """(weights not yet divided by their sum, that sum): float32 (T, T) and (T, 1)."""
    logits = product(q, k, transpose_second=True) * head_width**-0.5
    if seen is not None:
        logits = jnp.where(seen, logits, HIDDEN)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def product(
    a: jax.Array, b: jax.Array, *, transpose_first: bool = False, transpose_second: bool = False
) -> jax.Array:
    """a b, with one of them transposed if asked for, in float32."""
    axes = ((0 if transpose_first else 1,), (1 if transpose_second else 0,))
    return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)
