"""Attention of ViT-B/16 compiled for a TPU: XLA's, this project's kernel, and JAX's flash and splash attention.

  python -m benchmarks.tpu_attention [--topology=v5e:2x2] [--tokens=99 --tokens=197] [--images=64]

Forward and backward of one layer, from (N, T, W) arrays to (N, T, W) arrays in bfloat16, compiled
alone. No TPU is needed and nothing runs, so that all times are estimates:

- operations: cycles that the compiler estimates for what is not in a kernel, by the chip's clock. In
  a model a part of it, changes of layout, may be joined with the operations around.
- kernels: the compiler estimates no cycles of a kernel, but it writes down its schedule. Each line
  takes a cycle, unless the chip waits for memory, which the schedule does not show.
- floor: matrix products at peak, or 3 arrays read and 1 written forward and 4 and 3 backward at the
  full bandwidth of the main memory, whichever takes longer.

Flash and splash attention take numbers of tokens that 128 divides, so that the others are padded.
"""

import itertools
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from einops import rearrange
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from benchmarks import common
from benchmarks.plots import Panels
from pgs import sharding
from pgs.compile.aot import NOT_KEPT, jax_settings
from pgs.compile.topology import chip_of, devices_of
from pgs.compile.traffic import step_traffic
from pgs.models import attention, tpu_attention
from pgs.utils import cli

TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'A slice, as for pgs.compile.')
TOKENS = flags.DEFINE_multi_integer(
    'tokens', [99, 138, 197], 'Tokens of an image; may be repeated.', lower_bound=2
)
IMAGES = flags.DEFINE_integer('images', 64, 'Images on a chip.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/benchmarks/tpu_attention.json', 'Path of the results.')
HEADS, WIDTH = 12, 64  # of ViT-B/16; the width is that of a head
TILE = 128  # tokens of a block of flash and splash attention

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def whole(attend: Callable[..., jax.Array]) -> Attend:
    """One of this project's implementations for (N, T, W)."""

    def on_all_devices(*qkv):
        heads = (rearrange(x, 'n t (h d) -> n t h d', h=HEADS) for x in qkv)
        return rearrange(attend(*heads, None, causal=False), 'n t h d -> n t (h d)')

    return on_all_devices


def padded(attend: Attend) -> Attend:
    """Attention over (N, H, T, D) with padded tokens, for (N, T, W)."""

    def on_each_device(*qkv):
        tokens = qkv[0].shape[1]
        room = ((0, 0), (0, 0), (0, -tokens % TILE), (0, 0))
        heads = (jnp.pad(rearrange(x, 'n t (h d) -> n h t d', h=HEADS), room) for x in qkv)
        is_padding = (jnp.arange(tokens + room[2][1]) >= tokens).astype(jnp.int32)
        out = attend(*heads, is_padding)[:, :, :tokens]
        return rearrange(out, 'n h t d -> n t (h d)')

    spec = PartitionSpec(sharding.AXES)
    return lambda *qkv: jax.shard_map(
        on_each_device, in_specs=spec, out_specs=spec, check_vma=False
    )(*qkv)


def flash_attention(q: jax.Array, k: jax.Array, v: jax.Array, segment_T: jax.Array) -> jax.Array:
    """JAX's flash attention with one block for a head."""
    names = flash.BlockSizes.__dataclass_fields__
    sizes = flash.BlockSizes(**{n: 1 if n == 'block_b' else q.shape[2] for n in names})
    segments = jnp.broadcast_to(segment_T, (q.shape[0], q.shape[2]))
    ids = flash.SegmentIds(segments, segments)
    return flash.flash_attention(q, k, v, segment_ids=ids, sm_scale=WIDTH**-0.5, block_sizes=sizes)


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, segment_T: jax.Array) -> jax.Array:
    """JAX's splash attention with one block for a head."""
    size = q.shape[2]
    names = ('q', 'kv', 'kv_compute', 'q_dkv', 'kv_dkv', 'kv_dkv_compute')
    sizes = splash.BlockSizes(**{f'block_{n}': size for n in names}, use_fused_bwd_kernel=True)
    everything = masks.MultiHeadMask([masks.FullMask((size, size)) for _ in range(HEADS)])
    kernel = splash.make_splash_mha(everything, head_shards=1, q_seq_shards=1, block_sizes=sizes)
    ids = splash.SegmentIds(segment_T, segment_T)
    return jax.vmap(lambda q, k, v: kernel(q * WIDTH**-0.5, k, v, segment_ids=ids))(q, k, v)


# name -> (attention, programs of its kernels for one image)
CASES: dict[str, tuple[Attend, int]] = {
    'XLA': (whole(attention.attention), 0),
    'kernel': (whole(tpu_attention.attention), 1),
    'flash': (padded(flash_attention), HEADS),
    'splash': (padded(splash_attention), HEADS),
}


def measure(name: str, tokens: int, images: int, topology: str, dumps: Path) -> dict[str, Any]:
    """Seconds of a layer's attention on each chip, by the compiler.

    Args:
      name: of CASES.
      tokens, images: T, and N of a chip.
      topology: of TOPOLOGIES.
      dumps: where the compiler writes its schedules.
    """
    attend, programs = CASES[name]
    chip, devices = chip_of(topology), devices_of(topology)
    mesh = sharding.make_mesh({'data': -1}, images * len(devices), devices)
    shape = (images * len(devices), tokens, HEADS * WIDTH)
    like = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding.batch_sharding(mesh))

    def forward_and_backward(q, k, v, gradient):
        result, backward = jax.vjp(attend, q, k, v)
        return result, *backward(gradient)

    with jax.set_mesh(mesh), jax_settings(NOT_KEPT):
        text = jax.jit(forward_and_backward).lower(*[like] * 4).compile().as_text()
    kernels = re.findall(r'%(\S+) = .*custom_call_target="tpu_custom_call"', text)
    lines = {kernel: schedule_lines(dumps, kernel) for kernel in kernels}
    operations = sum(step_traffic(text, mesh.shape).cycles.values()) / chip.clock
    return {
        'operations': operations,
        'schedule_lines': lines,
        'kernels': images * programs * sum(lines.values()) / chip.clock,
        'floor': max(
            7 * 2 * images * tokens**2 * HEADS * WIDTH / chip.flops,
            11 * images * tokens * HEADS * WIDTH * 2 / chip.bandwidth,
        ),
    }


def schedule_lines(dumps: Path, kernel: str) -> int:
    """Lines of the final schedule of a kernel, each an instruction of all units of the chip."""
    (path, *_) = dumps.glob(f'*-{kernel}-*-schedule-analysis_final_bundles.txt')
    found = re.search(r'total scheduled bundles:\s*(\d+)', path.read_text())
    assert found is not None, path
    return int(found[1])


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as text."""
    cells = [
        [
            name,
            *(f'{1e3 * row[k]:.2f}' for k in ('operations', 'kernels')),
            f'{1e3 * (row["operations"] + row["kernels"]):.2f}',
            f'{1e3 * row["floor"]:.2f}',
        ]
        for name, row in rows.items()
    ]
    return common.table(['tokens, attention', 'operations ms', 'kernels', 'sum', 'floor'], cells)


def main(argv: list[str]) -> None:
    del argv
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        # libtpu reads this once, when `devices_of` first loads it.
        dumping = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
        os.environ['LIBTPU_INIT_ARGS'] = f'{os.environ.get("LIBTPU_INIT_ARGS", "")} {dumping}'
        for tokens, name in itertools.product(TOKENS.value, CASES):
            print(f'Compiling {name} for {tokens} tokens', flush=True)
            rows[f'{tokens} {name}'] = measure(
                name, tokens, IMAGES.value, TOPOLOGY.value, Path(folder)
            )
            for path in Path(folder).iterdir():  # kernels of the next program have the same names
                path.unlink()
    print(f'\n{IMAGES.value} images on a chip of {TOPOLOGY.value}, one layer\n{table(rows)}')
    panels: Panels = {
        f'milliseconds, by {part}': {
            '': {
                case: dict.fromkeys(('min', 'median', 'max'), 1e3 * row[part])
                for case, row in rows.items()
            }
        }
        for part in ('operations', 'kernels')
    }
    result = {'topology': TOPOLOGY.value, 'images': IMAGES.value, 'rows': rows}
    common.write(OUT.value, result, panels)


if __name__ == '__main__':
    cli.run(main)
