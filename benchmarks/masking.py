"""Times the patch selection of PGS at ViT-B/16 beside the complete train step.

  python -m benchmarks.masking [--batch_size=16] [--rounds=5] [--out=FILE.json]

Both take turns in one run. The share is the time of the selection divided by that of the step,
round by round.
"""

from absl import flags

from benchmarks import common
from pgs.utils import cli

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Images in a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
VARIANT = flags.DEFINE_enum('variant', 'pgs-0.5', ['pgs-0.5', 'pgs-0.3'], 'Which PGS.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/masking.json', 'Path of the results.')


def measure(variant: str, batch_size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the step and of the selection in each round."""
    config = common.variant_config(variant, batch_size)
    compiled, state, batch = common.compiled_step(config)
    select = common.selection_timer(config, batch)

    def step():
        nonlocal state
        state, _ = compiled(state, batch)
        return state

    steps, selections = [], []
    for number in range(rounds + 1):
        step_seconds = common.timed(step)
        selection_seconds = select()
        print(
            f'round {number}/{rounds}  step {step_seconds:.2f} s  '
            f'selection {selection_seconds * 1e3:.1f} ms',
            flush=True,
        )
        if number:  # round 0 is a warm-up
            steps.append(step_seconds)
            selections.append(selection_seconds)
    return steps, selections


def main(argv: list[str]) -> None:
    del argv
    steps, selections = measure(VARIANT.value, BATCH_SIZE.value, ROUNDS.value)
    share = common.ratio(selections, steps)
    print(
        f'\n{VARIANT.value}: selection takes {share["median"]:.2%} of the step '
        f'({share["min"]:.2%} to {share["max"]:.2%} over {ROUNDS.value} rounds)'
    )
    result = {'machine': common.machine(), 'batch_size': BATCH_SIZE.value, 'variant': VARIANT.value}
    seconds = {'step': common.spread(steps), 'selection': common.spread(selections)}
    percent = {k: 100 * v for k, v in share.items()}
    panels = {
        'seconds': {'': seconds},
        'selection, % of step': {'': {VARIANT.value: percent}},
    }
    common.write(OUT.value, result | seconds | {'share': share}, panels)


if __name__ == '__main__':
    cli.run(main)
