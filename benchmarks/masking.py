"""What PGS selection costs at ViT-B/16: alone, beside the train step that it is part of.

  python -m benchmarks.masking [--batch_size=16] [--rounds=5] [--out=FILE.json]

Both take turns in one run. The share is selection over step, round by round.
"""

from absl import app, flags

from benchmarks import common

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Images a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed turns.', lower_bound=1)
VARIANT = flags.DEFINE_enum('variant', 'pgs-0.5', ['pgs-0.5', 'pgs-0.3'], 'Which PGS.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/masking.json', 'Where the figures go.')


def main(argv):
    del argv
    config = common.variant_config(VARIANT.value, BATCH_SIZE.value)
    compiled, state, batch = common.compiled_step(config)
    select = common.selection_alone(config, batch)

    steps, selections = [], []
    for turn in range(ROUNDS.value + 1):

        def step():
            nonlocal state
            state, _ = compiled(state, batch)
            return state

        step_seconds = common.timed(step)
        selection_seconds = select()
        print(
            f'round {turn}/{ROUNDS.value}  step {step_seconds:.2f} s  '
            f'selection {selection_seconds * 1e3:.1f} ms',
            flush=True,
        )
        if turn:  # the first is a warm-up
            steps.append(step_seconds)
            selections.append(selection_seconds)

    shares = [a / b for a, b in zip(selections, steps, strict=True)]
    share = common.spread(shares)
    print(
        f'\n{VARIANT.value}: selection takes {share["median"]:.2%} of the step '
        f'({share["min"]:.2%} to {share["max"]:.2%} over {ROUNDS.value} rounds)'
    )
    result = {'machine': common.machine(), 'batch_size': BATCH_SIZE.value, 'variant': VARIANT.value}
    figures = {'step': common.spread(steps), 'selection': common.spread(selections), 'share': share}
    panels = {
        'seconds': {'': {k: figures[k] for k in ('step', 'selection')}},
        'selection, % of step': {'': {VARIANT.value: {k: 100 * v for k, v in share.items()}}},
    }
    common.write(OUT.value, result | figures, panels)


if __name__ == '__main__':
    app.run(main)
