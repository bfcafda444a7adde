"""Compiles the train step for a TPU slice that is not there, and says what it would take.

  python -m pgs.compile --config=configs/vitb16_pgs.py:0.3 --topology=v5e:8x8

The step is the real one: state sharding, donation, remat and microbatches as configured. Prints
memory of one chip by kind, FLOPs, memory traffic, collectives, and a roofline estimate. Exit
status 1 where it does not fit. Any key of the config is a flag: --config.batch_size=16384.

  --compare=none,random,pgs   the strategies side by side, with R.T.T. by the estimate
  --suggest                   where it does not fit, compiles with settings until one does
  --json                      for machines
"""

import json
import os
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from pgs import cli
from pgs.aot import GIB, TooBig, compile_step, fit, too_big_line
from pgs.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
TOPOLOGY = flags.DEFINE_string('topology', 'v5e:8x8', 'Slice to compile for: v4, v5e, v5p, v6e.')
COMPARE = flags.DEFINE_list('compare', [], 'Strategies to compile side by side.')
SUGGEST = flags.DEFINE_bool('suggest', False, 'If it does not fit, try settings until one does.')
JSON = flags.DEFINE_bool('json', False, 'Print JSON and nothing else.')
DEFAULT = os.path.join('configs', 'vitb16_pgs.py')


def table(reports: list[dict]) -> str:
    """The figures, a column for each compiled step."""

    def gib(size):
        return f'{size / GIB:.2f} GiB'

    def giga(size):
        return f'{size / 1e9:.2f} GB'

    def ms(seconds):
        return f'{seconds * 1e3:.1f} ms'

    rows = [
        ('strategy', [r['strategy'] for r in reports]),
        ('topology', [r['topology'] for r in reports]),
        ('mesh data x fsdp', ['{data} x {fsdp}'.format(**r['mesh']) for r in reports]),
        ('batch (a device)', [f'{r["batch_size"]} ({r["batch_per_device"]})' for r in reports]),
        ('remat, microbatches', [f'{r["remat"]}, {r["microbatches"]}' for r in reports]),
        ('HBM: arguments', [gib(r['argument_bytes']) for r in reports]),
        ('HBM: temporaries', [gib(r['temporary_bytes']) for r in reports]),
        ('HBM: other results', [gib(r['output_bytes']) for r in reports]),
        ('HBM: code', [gib(r['code_bytes']) for r in reports]),
        ('HBM of the chip', [gib(r['capacity_bytes']) for r in reports]),
        ('TFLOP a step, all', [f'{r["flops"] / 1e12:.1f}' for r in reports]),
        ('memory traffic', [giga(r['memory_traffic_bytes']) for r in reports]),
        ('  of it selection', [giga(r['selection_traffic_bytes']) for r in reports]),
    ]
    kinds = sorted({(c['kind'], c['axis']) for r in reports for c in r['collectives']})
    for kind, axis in kinds:
        found = [
            next((c for c in r['collectives'] if (c['kind'], c['axis']) == (kind, axis)), None)
            for r in reports
        ]
        cells = [f'{c["count"]}, {c["bytes"] / 1e6:.1f} MB' if c else '-' for c in found]
        rows.append((f'{kind} over {axis}', cells))
    rows += [
        ('at peak FLOP/s', [ms(r['compute_seconds']) for r in reports]),
        ('at peak bandwidth', [ms(r['memory_seconds']) for r in reports]),
        ('collectives', [ms(r['wire_seconds']) for r in reports]),
        ('roofline', [ms(r['roofline_seconds']) for r in reports]),
        ("compiler's cycles", [ms(r['cycle_seconds']) for r in reports]),
        ('estimate a step', [ms(r['estimated_seconds']) for r in reports]),
        ('pairs/s', [f'{r["pairs_per_second"]:.0f}' for r in reports]),
        ('days, 32 epochs', [f'{r["paper_days"]:.2f}' for r in reports]),
        ('chip-hours', [f'{r["chip_hours"]:.0f}' for r in reports]),
    ]
    if len(reports) > 1:
        base = next((r for r in reports if r['strategy'] == 'none'), reports[0])
        name = base['strategy']
        for label, key in (('FLOPs', 'flops'), ('R.T.T.', 'estimated_seconds')):
            rows.append((f'{label} over {name}', [f'{r[key] / base[key]:.3f}' for r in reports]))
    widths = [max(len(str(row[1][i])) for row in rows) for i in range(len(reports))]
    lines = [
        f'{label:<24}' + '  '.join(f'{c:>{w}}' for c, w in zip(cells, widths, strict=True))
        for label, cells in rows
    ]
    return '\n'.join(lines)


NOTE = (
    'Estimates, not measurements. Roofline: the longer of products at the published peak and memory at\n'
    'the published bandwidth, plus collectives as rings that nothing hides. The estimate of a step is\n'
    "the larger of it and the compiler's own cycles plus collectives. Days and chip-hours: the paper's\n"
    '32 epochs of 10,968,539 pairs, the input never waiting.'
)


def run(config, topology: str, compare: list[str], suggest: bool, say) -> list[dict]:
    """Compiles what was asked for; raises TooBig where it does not fit and nothing helps."""
    reports = []
    for strategy in compare or [config.masking.strategy]:
        changed = config.copy_and_resolve_references()
        changed.masking.strategy = strategy
        say(f'Compiling {strategy} for {topology}: half a minute to two ...')
        reports.append(fit(changed, topology, say) if suggest else compile_step(changed, topology))
    return reports


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.ERROR)
    jax.config.update('jax_platforms', 'cpu')  # this machine's own accelerators are not asked

    def say(words):
        if not JSON.value:
            print(words, flush=True)

    try:
        reports = run(CONFIG.value, TOPOLOGY.value, COMPARE.value, SUGGEST.value, say)
    except UserError as error:
        sys.exit(f'error: {error}')
    except TooBig as error:
        if JSON.value:
            print(json.dumps({'fits': False} | error.report))
        sys.exit(f'error: {error.report["strategy"]} {too_big_line(error.report)}')
    if JSON.value:
        print(json.dumps([{'fits': True} | r for r in reports], indent=2))
    else:
        print('\n' + table(reports) + '\n\n' + NOTE)


if __name__ == '__main__':
    app.run(main, flags_parser=cli.parser(CONFIG, DEFAULT))
