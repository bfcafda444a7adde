"""Times a ViT-B/16 train step under each strategy, side by side in one run.

  python -m benchmarks.step [--batch_size=16] [--rounds=5] [--variants=none,pgs-0.5] [--out=FILE.json]

The variants take turns, A B C A B C, so that a machine whose speed drifts treats all alike.
R.T.T. is the ratio to 'none', round by round.
"""

import statistics

from absl import app, flags

from benchmarks import common

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pairs a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed steps of each variant.', lower_bound=1)
NAMES = flags.DEFINE_list('variants', list(common.VARIANTS), 'Which, of common.VARIANTS.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/step.json', 'Where the figures go.')


def main(argv):
    del argv
    from pgs import sharding

    mesh = sharding.make_mesh(BATCH_SIZE.value)
    peak = common.matmul_peak()
    print(f'Matmul peak {peak / 1e9:.0f} GFLOP/s (float32). Compiling {len(NAMES.value)} variants')
    runs = {}
    for name in NAMES.value:
        config = common.variant_config(name, BATCH_SIZE.value)
        compiled, state, batch = common.compiled_step(config, mesh)
        runs[name] = {'compiled': compiled, 'state': state, 'batch': batch, 'seconds': []}

    for turn in range(ROUNDS.value + 1):
        for name, run in runs.items():

            def step(run=run):
                run['state'], _ = run['compiled'](run['state'], run['batch'])
                return run['state']

            seconds = common.timed(step)
            if turn:  # the first is a warm-up
                run['seconds'].append(seconds)
            print(f'round {turn}/{ROUNDS.value}  {name:<11} {seconds:.2f} s', flush=True)

    rows = {}
    print(
        f'\n{"variant":<11} {"s/step":>7} {"min..max":>13} {"pairs/s":>8} {"R.T.T.":>7} {"MFU":>6}'
    )
    for name, run in runs.items():
        figures = common.spread(run['seconds'])
        flops = common.step_flops(common.variant_config(name, BATCH_SIZE.value))
        row = {
            'seconds': figures,
            'pairs_per_second': BATCH_SIZE.value / figures['median'],
            'mfu': flops / figures['median'] / peak,
            'floor_seconds': flops / peak,
        }
        if 'none' in runs:
            ratios = [a / b for a, b in zip(run['seconds'], runs['none']['seconds'], strict=True)]
            row['relative_training_time'] = statistics.median(ratios)
        rows[name] = row
        print(
            f'{name:<11} {figures["median"]:>7.2f} {figures["min"]:>6.2f}..{figures["max"]:<5.2f} '
            f'{row["pairs_per_second"]:>8.2f} {row.get("relative_training_time", float("nan")):>7.3f} '
            f'{row["mfu"]:>6.1%}'
        )
    result = {'machine': common.machine(), 'batch_size': BATCH_SIZE.value, 'matmul_peak': peak}
    common.write(OUT.value, result | {'variants': rows})


if __name__ == '__main__':
    app.run(main)
