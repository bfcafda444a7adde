"""Times a ViT-B/16 train step under each strategy, side by side in one run.

  python -m benchmarks.step [--batch_size=16] [--rounds=5] [--variants=none,pgs-0.5] [--out=FILE.json]

The variants take turns, A B C A B C, so that a machine whose speed drifts treats all alike.
R.T.T. is the ratio to 'none', selection the time of PGS alone over the step, both round by round.
Memory is what the compiled step needs on one device: state, batch and temporaries.
"""

import statistics

from absl import app, flags

from benchmarks import common

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pairs a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed steps of each variant.', lower_bound=1)
NAMES = flags.DEFINE_list('variants', list(common.VARIANTS), 'Which, of common.VARIANTS.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/step.json', 'Where the figures go.')


def summary(
    run: dict, none_seconds: list[float] | None, batch_size: int, flops: float, peak: float
) -> dict:
    """Figures of one variant.

    Args:
      run: seconds of each round, memory in GiB and, for PGS, selections, seconds of each round.
      none_seconds: of each round of 'none'; None where it does not run.
      batch_size: pairs a step.
      flops: of a step.
      peak: FLOP/s of the machine.
    """
    seconds = common.spread(run['seconds'])
    row = {
        'seconds': seconds,
        'pairs_per_second': batch_size / seconds['median'],
        'mfu': flops / seconds['median'] / peak,
        'floor_seconds': flops / peak,
        'peak_memory_gib': run['memory'],
    }
    if none_seconds:
        ratios = [a / b for a, b in zip(run['seconds'], none_seconds, strict=True)]
        row['relative_training_time'] = statistics.median(ratios)
    if run['selections']:
        shares = [a / b for a, b in zip(run['selections'], run['seconds'], strict=True)]
        row['selection_share'] = common.spread(shares)
    return row


def table(rows: dict[str, dict]) -> str:
    """The figures of each variant as text."""

    def cells(name, row):
        seconds, share = row['seconds'], row.get('selection_share')
        relative = row.get('relative_training_time')
        return [
            name,
            f'{seconds["median"]:.2f}',
            f'{seconds["min"]:.2f}..{seconds["max"]:.2f}',
            f'{row["pairs_per_second"]:.2f}',
            f'{relative:.3f}' if relative else '-',
            f'{row["mfu"]:.1%}',
            f'{share["median"]:.2%}' if share else '-',
            f'{row["peak_memory_gib"]:.2f}',
        ]

    header = ['variant', 's/step', 'min..max', 'pairs/s', 'R.T.T.', 'MFU', 'selection', 'GiB']
    return common.table(header, [cells(*item) for item in rows.items()])


def panels(rows: dict[str, dict]) -> dict:
    """What is drawn: time and memory of a step, and the selection's share of it."""
    shares = {
        n: {k: 100 * v for k, v in r['selection_share'].items()}
        for n, r in rows.items()
        if 'selection_share' in r
    }
    memory = {n: common.spread([r['peak_memory_gib']]) for n, r in rows.items()}
    drawn = {
        'seconds a step': {'': {n: r['seconds'] for n, r in rows.items()}},
        'peak memory, GiB': {'': memory},
    }
    return drawn | ({'selection, % of step': {'': shares}} if shares else {})


def main(argv):
    del argv
    peak = common.matmul_peak()
    print(f'Matmul peak {peak / 1e9:.0f} GFLOP/s (float32). Compiling {len(NAMES.value)} variants')
    runs = {}
    for name in NAMES.value:
        config = common.variant_config(name, BATCH_SIZE.value)
        compiled, state, batch = common.compiled_step(config)
        runs[name] = {
            'compiled': compiled,
            'state': state,
            'batch': batch,
            'memory': common.peak_memory(compiled),
            'select': None,
            'seconds': [],
            'selections': [],
        }
        if config.masking.strategy == 'pgs':
            runs[name]['select'] = common.selection_alone(config, batch)

    for turn in range(ROUNDS.value + 1):
        for name, run in runs.items():

            def step(run=run):
                run['state'], _ = run['compiled'](run['state'], run['batch'])
                return run['state']

            seconds = common.timed(step)
            selection = run['select']() if run['select'] else None
            if turn:  # the first is a warm-up
                run['seconds'].append(seconds)
                if selection:
                    run['selections'].append(selection)
            print(f'round {turn}/{ROUNDS.value}  {name:<11} {seconds:.2f} s', flush=True)

    none_seconds = runs['none']['seconds'] if 'none' in runs else None
    rows = {}
    for name, run in runs.items():
        flops = common.step_flops(common.variant_config(name, BATCH_SIZE.value))
        rows[name] = summary(run, none_seconds, BATCH_SIZE.value, flops, peak)
    print(f'\n{table(rows)}')
    result = {'machine': common.machine(), 'batch_size': BATCH_SIZE.value, 'matmul_peak': peak}
    common.write(OUT.value, result | {'variants': rows}, panels(rows))


if __name__ == '__main__':
    app.run(main)
