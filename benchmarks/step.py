"""Times a ViT-B/16 train step with each strategy, side by side in one run.

  python -m benchmarks.step [--batch_size=16] [--rounds=5] [--variants=none,pgs-0.5] [--out=FILE.json]

The variants take turns, A B C A B C, so that a change in the machine's speed affects all of them.
The relative training time (R.T.T.) is the ratio to the variant that masks nothing, and `selection`
the time of the patch selection divided by that of the step, both round by round. Memory is what
the compiled step needs on one device: state, batch and temporaries.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks import common
from benchmarks.plots import Panels
from pgs.compile.aot import masks_nothing
from pgs.step import TrainState
from pgs.utils import cli

BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pairs in a step.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed steps of each variant.', lower_bound=1)
NAMES = flags.DEFINE_list('variants', list(common.VARIANTS), 'Which, of common.VARIANTS.')
OUT = flags.DEFINE_string('out', 'runs/benchmarks/step.json', 'Path of the results.')


@dataclasses.dataclass
class Measurement:
    """What was measured of one variant.

    Attributes:
      memory: GiB that the step needs on one device.
      seconds: of the step in each round.
      selections: seconds of the patch selection in each round; empty if the variant masks nothing.
    """

    memory: float
    seconds: list[float]
    selections: list[float]


def compile_variant(
    name: str, batch_size: int
) -> tuple[Callable[[], TrainState], Callable[[], float] | None, float]:
    """Compiles the step of a variant.

    Returns:
      (step, which runs once and returns the new state; timer of the selection, or None if the
      variant masks nothing; GiB that the step needs on one device).
    """
    config = common.variant_config(name, batch_size)
    compiled, state, batch = common.compiled_step(config)

    def step() -> TrainState:
        nonlocal state
        state, _ = compiled(state, batch)
        return state

    select = None if masks_nothing(config) else common.selection_timer(config, batch)
    return step, select, common.peak_memory(compiled)


def measure(names: list[str], batch_size: int, rounds: int) -> dict[str, Measurement]:
    """Times the variants in turns, after one round of warm-up."""
    compiled = {name: compile_variant(name, batch_size) for name in names}
    measured = {name: Measurement(memory, [], []) for name, (_, _, memory) in compiled.items()}
    for number in range(rounds + 1):
        for name, (step, select, _) in compiled.items():
            seconds = common.timed(step)
            selection = select() if select else None
            if number:  # round 0 is a warm-up
                measured[name].seconds.append(seconds)
                if selection is not None:
                    measured[name].selections.append(selection)
            print(f'round {number}/{rounds}  {name:<11} {seconds:.4g} s', flush=True)
    return measured


def summary(
    run: Measurement,
    baseline_seconds: list[float] | None,
    *,
    batch_size: int,
    flops: float,
    peak: float,
) -> dict[str, Any]:
    """Results of one variant.

    Args:
      run: its measurements.
      baseline_seconds: seconds of the unmasked step in each round; None if it was not measured.
      batch_size: pairs in a step.
      flops: of a step.
      peak: FLOP/s of the machine.
    """
    seconds = common.spread(run.seconds)
    row: dict[str, Any] = {
        'seconds': seconds,
        'pairs_per_second': batch_size / seconds['median'],
        'mfu': flops / seconds['median'] / peak,
        'floor_seconds': flops / peak,
        'peak_memory_gib': run.memory,
    }
    if baseline_seconds:
        ratio = common.ratio(run.seconds, baseline_seconds)
        row['relative_training_time'] = ratio['median']
    if run.selections:
        row['selection_share'] = common.ratio(run.selections, run.seconds)
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results of all variants as text."""

    def cells(name: str, row: dict[str, Any]) -> list[str]:
        seconds, share = row['seconds'], row.get('selection_share')
        relative = row.get('relative_training_time')
        return [
            name,
            f'{seconds["median"]:#.3g}',
            f'{seconds["min"]:#.3g}..{seconds["max"]:#.3g}',
            f'{row["pairs_per_second"]:.2f}',
            f'{relative:.3f}' if relative else '-',
            f'{row["mfu"]:.1%}',
            f'{share["median"]:.2%}' if share else '-',
            f'{row["peak_memory_gib"]:.2f}',
        ]

    header = ['variant', 's/step', 'min..max', 'pairs/s', 'R.T.T.', 'MFU', 'selection', 'GiB']
    return common.table(header, [cells(*item) for item in rows.items()])


def panels(rows: dict[str, dict[str, Any]]) -> Panels:
    """Time and memory of a step, and the share of the selection, to be drawn."""
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


def main(argv: list[str]) -> None:
    del argv
    peak, batch_size = common.matmul_peak(), BATCH_SIZE.value
    print(f'Matmul peak {peak / 1e9:.0f} GFLOP/s. Compiling {len(NAMES.value)} variants')
    measured = measure(NAMES.value, batch_size, ROUNDS.value)
    baseline = next((m.seconds for m in measured.values() if not m.selections), None)
    rows = {}
    for name, run in measured.items():
        flops = common.step_flops(common.variant_config(name, batch_size))
        rows[name] = summary(run, baseline, batch_size=batch_size, flops=flops, peak=peak)
    print(f'\n{table(rows)}')
    result = {'machine': common.machine(), 'batch_size': batch_size, 'matmul_peak': peak}
    common.write(OUT.value, result | {'variants': rows}, panels(rows))


if __name__ == '__main__':
    cli.run(main)
