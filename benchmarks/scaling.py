"""Compiles a step for a list of TPU slices and batch sizes, and prints the tables of docs/scaling.md.

  python -m benchmarks.scaling [--topologies=v5e:4x8,v5e:8x8] [--batches=4096,16384] [--config=FILE]

No TPU is needed. Each pair takes about five minutes of two cores; if a step does not fit, settings
are tried as by `python -m pgs.compile --suggest`. Steps that --out already contains are not compiled
again.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from benchmarks import common
from benchmarks.plots import Panels
from pgs import sharding
from pgs.compile.aot import GIB, Report, TooBig
from pgs.compile.suggest import fit
from pgs.compile.topology import devices_of
from pgs.loss import info_nce
from pgs.utils import cli
from pgs.utils.console import format_seconds

SLICES = ['v5e:4x8', 'v5e:8x8', 'v5e:16x16', 'v4:4x4x4', 'v5p:4x4x4', 'v6e:8x8']
CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
TOPOLOGIES = flags.DEFINE_list('topologies', SLICES, 'Slices to compile for.')
BATCHES = flags.DEFINE_list('batches', ['4096', '16384', '32768'], 'Global batch sizes.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/scaling.json', 'Path of the results.')

# Heading of a column -> its cell of a report.
COLUMNS = {
    'slice': lambda r: r['topology'],
    'batch': lambda r: str(r['batch_size']),
    'a device': lambda r: str(r['batch_per_device']),
    'microbatches': lambda r: str(r['microbatches']),
    'state': lambda r: f'{r["argument_bytes"] / GIB:.2f}',
    'temporaries': lambda r: f'{r["temporary_bytes"] / GIB:.2f}',
    'of': lambda r: f'{r["capacity_bytes"] / GIB:.0f} GiB',
    'TFLOP': lambda r: f'{r["flops"] / 1e12:.0f}',
    'traffic': lambda r: f'{r["memory_traffic_bytes"] / 1e9:.1f} GB',
    'collectives': lambda r: f'{sum(c["bytes"] for c in r["collectives"]) / 1e6:.0f} MB',
    'wires': lambda r: f'{r["wire_seconds"] * 1e3:.1f} ms',
    'step': lambda r: f'{r["estimated_seconds"] * 1e3:.0f} ms',
    'pairs/s': lambda r: f'{r["pairs_per_second"]:.0f}',
    'days': lambda r: f'{r["paper_days"]:.2f}',
    'chip-hours': lambda r: f'{r["chip_hours"]:.0f}',
}


def markdown(reports: list[Report]) -> str:
    """The reports of the steps that fit, as a Markdown table."""
    rows = [[cell(r) for cell in COLUMNS.values()] for r in reports if r['fits']]
    lines = [list(COLUMNS), ['---'] * len(COLUMNS), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def loss_memory(topology: str, batch_size: int, width: int = 512) -> int:
    """Bytes of temporaries on each device of the loss and its gradient, without the towers."""
    mesh = sharding.make_mesh({'data': -1, 'fsdp': 1}, batch_size, devices_of(topology))
    features = jax.ShapeDtypeStruct(
        (batch_size, width), jnp.float32, sharding=sharding.batch_sharding(mesh)
    )
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(info_nce, argnums=(0, 1, 2)))
        compiled = gradient.lower(features, features, scale).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def panels(reports: list[Report]) -> Panels:
    """Estimated rate of each slice and batch size, and its share of a chip's memory, to be drawn."""
    rate, memory = {}, {}
    for r in reports:
        if r['fits']:
            label = f'{r["topology"]}, {r["batch_size"]}'
            rate[label] = common.spread([r['pairs_per_second'] / 1e3])
            used = r['argument_bytes'] + r['temporary_bytes']
            memory[label] = common.spread([used / r['capacity_bytes']])
    return {
        'thousand pairs/s (estimate)': {'pairs/s': rate},
        "share of a chip's memory": {'memory': memory},
    }


def compile_missing(
    config: ConfigDict, pairs: list[tuple[str, int]], reports: list[Report], out: str
) -> None:
    """Compiles the pairs that `reports` lacks, appends their reports and writes all of them.

    Args:
      config: of the step.
      pairs: (topology, batch size).
      reports: those that exist already.
      out: path of the results, written after each step.
    """
    known = {(r['topology'], r['batch_size']) for r in reports}
    missing = [pair for pair in pairs if pair not in known]
    start = time.perf_counter()
    for number, (topology, batch_size) in enumerate(missing):
        spent = time.perf_counter() - start
        eta = format_seconds(spent / number * (len(missing) - number)) if number else '?'
        print(f'{number + 1}/{len(missing)}  {topology} batch {batch_size}  ETA {eta}', flush=True)
        changed = config.copy_and_resolve_references()
        changed.batch_size = batch_size
        try:
            reports.append({'fits': True} | fit(changed, topology, print))
        except TooBig as error:
            reports.append({'fits': False} | error.report)
        common.write(out, {'steps': reports}, panels(reports))


def read_reports(out: str) -> list[Report]:
    """The reports of an earlier call."""
    path = Path(out)
    return json.loads(path.read_text())['steps'] if path.exists() else []


def main(argv: list[str]) -> None:
    del argv
    jax.config.update('jax_platforms', 'cpu')
    reports = read_reports(OUT.value)
    pairs = [(topology, int(size)) for topology in TOPOLOGIES.value for size in BATCHES.value]
    compile_missing(CONFIG.value, pairs, reports, OUT.value)
    print('\nThe loss without the towers, bytes on each device, and those of B x B logits:')
    for topology, batch_size in pairs:
        held = loss_memory(topology, batch_size)
        print(f'{topology} {batch_size}: {held / 1e6:.0f} MB, {4 * batch_size**2 / 1e6:.0f} MB')
    print('\n' + markdown([r for r in reports if (r['topology'], r['batch_size']) in pairs]))


if __name__ == '__main__':
    cli.run(
        main, cli.config_parser(CONFIG, str(cli.CONFIGS / 'vitb16_pgs.py')), verbosity=logging.ERROR
    )
