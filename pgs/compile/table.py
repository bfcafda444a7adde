"""Reports of compiled steps as a printed table, one column for each step."""

from pgs.compile.aot import GIB, Report
from pgs.compile.traffic import PARTS, REST
from pgs.sharding import mesh_text

# Label of a row, and its cell of a report.
SIZES = (
    ('strategy', lambda r: r['strategy']),
    ('topology', lambda r: r['topology']),
    ('mesh', lambda r: mesh_text(r['mesh'])),
    ('batch (a device)', lambda r: f'{r["batch_size"]} ({r["batch_per_device"]})'),
    ('remat, microbatches', lambda r: f'{r["remat"]}, {r["microbatches"]}'),
    ('HBM: arguments', lambda r: gib(r['argument_bytes'])),
    ('HBM: temporaries', lambda r: gib(r['temporary_bytes'])),
    ('HBM: other results', lambda r: gib(r['output_bytes'])),
    ('HBM: code', lambda r: gib(r['code_bytes'])),
    ('HBM of the chip', lambda r: gib(r['capacity_bytes'])),
    ('TFLOP a step, all', lambda r: f'{r["flops"] / 1e12:.1f}'),
    ('memory traffic', lambda r: gigabytes(r['memory_traffic_bytes'])),
    ('  of it selection', lambda r: gigabytes(r['selection_traffic_bytes'])),
)
TIMES = (
    ('at peak FLOP/s', lambda r: milliseconds(r['compute_seconds'])),
    ('at peak bandwidth', lambda r: milliseconds(r['memory_seconds'])),
    ('collectives', lambda r: milliseconds(r['wire_seconds'])),
    ('roofline', lambda r: milliseconds(r['roofline_seconds'])),
    ("compiler's cycles", lambda r: milliseconds(r['cycle_seconds'])),
    *(
        (f'  {part}', lambda r, part=part: milliseconds(r['part_seconds'][part]))
        for part in (*PARTS, REST)
    ),
)
RESULTS = (
    ('estimate a step', lambda r: milliseconds(r['estimated_seconds'])),
    ('pairs/s', lambda r: f'{r["pairs_per_second"]:.0f}'),
    ('days, 32 epochs', lambda r: f'{r["paper_days"]:.2f}'),
    ('chip-hours', lambda r: f'{r["chip_hours"]:.0f}'),
)
RATIOS = (('FLOPs', 'flops'), ('R.T.T.', 'estimated_seconds'))  # to the baseline's value
NOTE = (
    'These are estimates, not measurements. The roofline is the longer of matrix products at the\n'
    'published peak and memory traffic at the published bandwidth, plus collectives as rings that\n'
    'do not overlap with computation. The estimate of a step is the larger of the roofline and the\n'
    "compiler's own cycles, plus the roofline of Pallas kernels, in which it counts none, plus\n"
    "collectives. Days and chip-hours are those of the paper's 32 epochs of 10,968,539 pairs if the\n"
    'step never waits for data. R.T.T. is the relative training time.'
)


def table(reports: list[Report], baseline: int = 0) -> str:
    """The reports side by side.

    Args:
      reports: of `compile_step`.
      baseline: index of the report that FLOPs and time of several reports are divided by.
    """
    rows = [(label, [cell(r) for r in reports]) for label, cell in SIZES]
    for kind, axis in sorted({(c['kind'], c['axis']) for r in reports for c in r['collectives']}):
        rows.append((f'{kind} over {axis}', [collective_cell(r, kind, axis) for r in reports]))
    rows += [(label, [cell(r) for r in reports]) for label, cell in TIMES]
    if any(r['kernel_seconds'] for r in reports):
        rows.append(("kernels' roofline", [milliseconds(r['kernel_seconds']) for r in reports]))
    rows += [(label, [cell(r) for r in reports]) for label, cell in RESULTS]
    if len(reports) > 1:
        base = reports[baseline]
        for label, key in RATIOS:
            ratios = [f'{r[key] / base[key]:.3f}' for r in reports]
            rows.append((f'{label} over {base["strategy"]}', ratios))
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(reports))]
    lines = [
        f'{label:<24}' + '  '.join(f'{c:>{w}}' for c, w in zip(cells, widths, strict=True))
        for label, cells in rows
    ]
    return '\n'.join(lines)


def collective_cell(report: Report, kind: str, axis: str) -> str:
    """Number and size of the collectives of one kind over one mesh axis; '-' if there are none."""
    for c in report['collectives']:
        if (c['kind'], c['axis']) == (kind, axis):
            return f'{c["count"]}, {c["bytes"] / 1e6:.1f} MB'
    return '-'


def gib(size: float) -> str:
    return f'{size / GIB:.2f} GiB'


def gigabytes(size: float) -> str:
    return f'{size / 1e9:.2f} GB'


def milliseconds(seconds: float) -> str:
    return f'{seconds * 1e3:.1f} ms'
