"""Compiles a step for a list of TPU slices and batches and writes the tables of docs/scaling.md.

  python -m benchmarks.scaling [--topologies=v5e:4x8,v5e:8x8] [--batches=4096,16384] [--config=FILE]

No TPU is needed. Half a minute to two for each pair; settings are tried where one does not fit, as
`python -m pgs.compile --suggest` does. What is compiled already in --out is not compiled again.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags, logging
from ml_collections import config_flags

from benchmarks import common
from pgs import sharding
from pgs.compile.aot import GIB, TooBig, fit
from pgs.compile.topology import devices_of
from pgs.loss import info_nce
from pgs.utils import cli
from pgs.utils.console import format_seconds

SLICES = ['v5e:4x8', 'v5e:8x8', 'v5e:16x16', 'v4:4x4x4', 'v5p:4x4x4', 'v6e:8x8']
CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
TOPOLOGIES = flags.DEFINE_list('topologies', SLICES, 'Slices to compile for.')
BATCHES = flags.DEFINE_list('batches', ['4096', '16384', '32768'], 'Global batch sizes.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/scaling.json', 'Where the figures go.')
HEAD = (
    'slice', 'batch', 'a device', 'microbatches', 'state', 'temporaries', 'of', 'TFLOP', 'traffic',
    'collectives', 'wires', 'step', 'pairs/s', 'days', 'chip-hours',
)  # fmt: skip


def row(r: dict) -> list[str]:
    exchanged = sum(c['bytes'] for c in r['collectives'])
    return [
        r['topology'], str(r['batch_size']), str(r['batch_per_device']), str(r['microbatches']),
        f'{r["argument_bytes"] / GIB:.2f}', f'{r["temporary_bytes"] / GIB:.2f}',
        f'{r["capacity_bytes"] / GIB:.0f} GiB', f'{r["flops"] / 1e12:.0f}',
        f'{r["memory_traffic_bytes"] / 1e9:.1f} GB',
        f'{exchanged / 1e6:.0f} MB', f'{r["wire_seconds"] * 1e3:.1f} ms',
        f'{r["estimated_seconds"] * 1e3:.0f} ms', f'{r["pairs_per_second"]:.0f}',
        f'{r["paper_days"]:.2f}', f'{r["chip_hours"]:.0f}',
    ]  # fmt: skip


def markdown(reports: list[dict]) -> str:
    lines = [HEAD, ['---'] * len(HEAD), *(row(r) for r in reports if r['fits'])]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def loss_memory(topology: str, batch_size: int, width: int = 512) -> int:
    """Bytes of temporaries of the loss and its gradient alone, on each device."""
    mesh = sharding.make_mesh({'data': -1, 'fsdp': 1}, batch_size, devices_of(topology))
    features = jax.ShapeDtypeStruct(
        (batch_size, width), jnp.float32, sharding=sharding.batch_sharding(mesh)
    )
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(info_nce, argnums=(0, 1, 2)))
        compiled = gradient.lower(features, features, scale).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def panels(reports: list[dict]) -> dict:
    """Estimated rate of each slice and batch, and what it holds of a chip's memory."""
    rate, memory = {}, {}
    for r in reports:
        if r['fits']:
            label = f'{r["topology"]}, {r["batch_size"]}'
            rate[label] = dict.fromkeys(('median', 'min', 'max'), r['pairs_per_second'] / 1e3)
            share = (r['argument_bytes'] + r['temporary_bytes']) / r['capacity_bytes']
            memory[label] = dict.fromkeys(('median', 'min', 'max'), share)
    return {
        'thousand pairs/s (estimate)': {'pairs/s': rate},
        "share of a chip's memory": {'memory': memory},
    }


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    jax.config.update('jax_platforms', 'cpu')
    path = Path(OUT.value)
    done = json.loads(path.read_text())['steps'] if path.exists() else []
    wanted = [(t, int(b)) for t in TOPOLOGIES.value for b in BATCHES.value]
    seen = {(r['topology'], r['batch_size']) for r in done}
    missing = [w for w in wanted if w not in seen]
    start = time.perf_counter()
    for number, (topology, batch_size) in enumerate(missing):
        spent = time.perf_counter() - start
        eta = format_seconds(spent / number * (len(missing) - number)) if number else '?'
        print(f'{number + 1}/{len(missing)}  {topology} batch {batch_size}  ETA {eta}', flush=True)
        config = CONFIG.value.copy_and_resolve_references()
        config.batch_size = batch_size
        try:
            done.append({'fits': True} | fit(config, topology, print))
        except TooBig as error:
            done.append({'fits': False} | error.report)
        common.write(OUT.value, {'steps': done}, panels(done))
    print('\nThe loss alone, bytes on each device, and those of B x B logits:')
    for topology, batch_size in wanted:
        held = loss_memory(topology, batch_size)
        print(f'{topology} {batch_size}: {held / 1e6:.0f} MB, {4 * batch_size**2 / 1e6:.0f} MB')
    print('\n' + markdown([r for r in done if (r['topology'], r['batch_size']) in wanted]))


if __name__ == '__main__':
    cli.run(main, cli.config_parser(CONFIG, 'configs/vitb16_pgs.py'))
