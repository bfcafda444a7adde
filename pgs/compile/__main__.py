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
from absl import flags, logging
from ml_collections import config_flags

from pgs.compile.aot import GIB, TooBig, compile_step, fit, too_big_line
from pgs.errors import UserError
from pgs.utils import cli

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
TOPOLOGY = flags.DEFINE_string('topology', 'v5e:8x8', 'Slice to compile for: v4, v5e, v5p, v6e.')
COMPARE = flags.DEFINE_list('compare', [], 'Strategies to compile side by side.')
SUGGEST = flags.DEFINE_bool('suggest', False, 'If it does not fit, try settings until one does.')
JSON = flags.DEFINE_bool('json', False, 'Print JSON and nothing else.')
DEFAULT = os.path.join('configs', 'vitb16_pgs.py')


def gib(size: float) -> str:
    return f'{size / GIB:.2f} GiB'


def giga(size: float) -> str:
    return f'{size / 1e9:.2f} GB'


def ms(seconds: float) -> str:
    return f'{seconds * 1e3:.1f} ms'


def exchanged(report: dict, kind: str, axis: str) -> str:
    for c in report['collectives']:
        if (c['kind'], c['axis']) == (kind, axis):
            return f'{c["count"]}, {c["bytes"] / 1e6:.1f} MB'
    return '-'


# Label of a row, and what it says of a report.
SIZES = (
    ('strategy', lambda r: r['strategy']),
    ('topology', lambda r: r['topology']),
    ('mesh data x fsdp', lambda r: '{data} x {fsdp}'.format(**r['mesh'])),
    ('batch (a device)', lambda r: f'{r["batch_size"]} ({r["batch_per_device"]})'),
    ('remat, microbatches', lambda r: f'{r["remat"]}, {r["microbatches"]}'),
    ('HBM: arguments', lambda r: gib(r['argument_bytes'])),
    ('HBM: temporaries', lambda r: gib(r['temporary_bytes'])),
    ('HBM: other results', lambda r: gib(r['output_bytes'])),
    ('HBM: code', lambda r: gib(r['code_bytes'])),
    ('HBM of the chip', lambda r: gib(r['capacity_bytes'])),
    ('TFLOP a step, all', lambda r: f'{r["flops"] / 1e12:.1f}'),
    ('memory traffic', lambda r: giga(r['memory_traffic_bytes'])),
    ('  of it selection', lambda r: giga(r['selection_traffic_bytes'])),
)
TIMES = (
    ('at peak FLOP/s', lambda r: ms(r['compute_seconds'])),
    ('at peak bandwidth', lambda r: ms(r['memory_seconds'])),
    ('collectives', lambda r: ms(r['wire_seconds'])),
    ('roofline', lambda r: ms(r['roofline_seconds'])),
    ("compiler's cycles", lambda r: ms(r['cycle_seconds'])),
    ('estimate a step', lambda r: ms(r['estimated_seconds'])),
    ('pairs/s', lambda r: f'{r["pairs_per_second"]:.0f}'),
    ('days, 32 epochs', lambda r: f'{r["paper_days"]:.2f}'),
    ('chip-hours', lambda r: f'{r["chip_hours"]:.0f}'),
)


def table(reports: list[dict]) -> str:
    """The figures, a column for each compiled step."""
    rows = [(label, [cell(r) for r in reports]) for label, cell in SIZES]
    for kind, axis in sorted({(c['kind'], c['axis']) for r in reports for c in r['collectives']}):
        rows.append((f'{kind} over {axis}', [exchanged(r, kind, axis) for r in reports]))
    rows += [(label, [cell(r) for r in reports]) for label, cell in TIMES]
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
    cli.run(main, cli.config_parser(CONFIG, DEFAULT))
