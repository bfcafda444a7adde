"""Times attention, forward and backward, at the token counts of the recipes: XLA's, and on a GPU cuDNN's.

  python -m benchmarks.attention [--batch_size=8] [--tokens=99 --tokens=138] [--rounds=5] [--out=FILE.json]

`all` attends to all tokens, as PGS-0.5 and unmasked images do. `lengths` has padding behind half to
all of the tokens of each image, as the long half of PGS-0.3 does. `causal` is that of captions. The
cases of one token count take turns. The error is that of the results and gradients against float32,
relative to their norm.

Shapes: B images, T tokens, H heads, D width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import common
from benchmarks.plots import Panels
from pgs.build import compute_dtype
from pgs.models import attention
from pgs.utils import cli

BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Images.', lower_bound=1)
TOKENS = flags.DEFINE_multi_integer(
    'tokens', [99, 138, 197], 'Tokens of an image; may be repeated.', lower_bound=2
)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/attention.json', 'Path of the results.')
HEADS, WIDTH = 12, 64  # of ViT-B/16
REPEATS = 20  # calls between two readings of the clock, where a call takes microseconds

Run = Callable[[], Any]


def make_inputs(batch: int, tokens: int) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Random (q, k, v, gradient of the result), each float32 (B, T, H, D), and lengths int32 (B,)."""
    keys = jax.random.split(jax.random.key(tokens), 5)
    shape = (batch, tokens, HEADS, WIDTH)
    lengths = jax.random.randint(keys[4], (batch,), tokens // 2, tokens + 1)
    return tuple(jax.random.normal(key, shape) for key in keys[:4]), lengths


def xla_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None, *, causal: bool
) -> jax.Array:
    """XLA's, with the arguments of the model's attention."""
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths, implementation='xla'
    )


@functools.partial(jax.jit, static_argnames=('attend', 'causal'))
def results_and_gradients(
    attend: Callable[..., jax.Array],
    inputs: tuple[jax.Array, ...],
    lengths: jax.Array | None,
    causal: bool,
) -> tuple[jax.Array, ...]:
    """Result of attention, and gradients of q, k and v."""
    *qkv, gradient = inputs
    result, backward = jax.vjp(lambda *qkv: attend(*qkv, lengths, causal=causal), *qkv)
    return result, *backward(gradient)


def error(found: tuple[jax.Array, ...], expected: tuple[jax.Array, ...]) -> float:
    """Largest of the relative errors of the arrays, by their norms."""
    return max(
        float(np.linalg.norm(np.float32(a) - np.float32(b)) / np.linalg.norm(np.float32(b)))
        for a, b in zip(found, expected, strict=True)
    )


def measure(tokens: int, batch: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Times the cases of a token count in turns: 'CASE, IMPLEMENTATION' -> figures."""
    exact, lengths = make_inputs(batch, tokens)
    inputs = tuple(a.astype(compute_dtype('auto', jax.default_backend())) for a in exact)
    attends = {'xla': xla_attention}
    if name := attention.fused(inputs[0]):
        attends[name] = attention.attention
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    cases = {'all': (None, False), 'lengths': (lengths, False), 'causal': (None, True)}
    for case, settings in cases.items():
        with jax.default_matmul_precision('highest'):
            expected = results_and_gradients(xla_attention, exact, *settings)
        for name, attend in attends.items():
            run = functools.partial(results_and_gradients, attend, inputs, *settings)
            runs[f'{case}, {name}'] = run
            rows[f'{case}, {name}'] = {'error': error(run(), expected), 'seconds': []}
    repeats = 1 if jax.default_backend() == 'cpu' else REPEATS
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = common.timed(lambda run=run: [run() for _ in range(repeats)]) / repeats
            if number:  # round 0 is a warm-up
                rows[name]['seconds'].append(seconds)
    # Forward two products of T x T x D, backward five, for each head.
    flops = 7 * 2 * batch * HEADS * tokens**2 * WIDTH
    for row in rows.values():
        row['seconds'] = common.spread(row['seconds'])
        row['flops_per_second'] = flops / row['seconds']['median']
    return rows


def table(rows: dict[int, dict[str, dict[str, Any]]]) -> str:
    """The results as text."""
    cells = [
        [
            f'{tokens} {name}',
            f'{1e3 * row["seconds"]["median"]:.3f}',
            f'{1e3 * row["seconds"]["min"]:.3f}..{1e3 * row["seconds"]["max"]:.3f}',
            f'{row["flops_per_second"] / 1e12:.2f}',
            f'{row["error"]:.1e}',
        ]
        for tokens, cases in rows.items()
        for name, row in cases.items()
    ]
    return common.table(['tokens, case', 'ms', 'min..max', 'TFLOP/s', 'error'], cells)


def main(argv: list[str]) -> None:
    del argv
    rows = {t: measure(t, BATCH_SIZE.value, ROUNDS.value) for t in TOKENS.value}
    print(f'{BATCH_SIZE.value} images, {HEADS} heads of width {WIDTH}\n{table(rows)}')
    panels: Panels = {
        f'seconds, {tokens} tokens': {'': {name: row['seconds'] for name, row in cases.items()}}
        for tokens, cases in rows.items()
    }
    result = {'machine': common.machine(), 'batch_size': BATCH_SIZE.value, 'tokens': rows}
    common.write(OUT.value, result, panels)


if __name__ == '__main__':
    cli.run(main)
