"""Repeats the first steps of a run in a new folder and compares environment, data and metrics.

  python -m pgs.reproduce WORKDIR [--steps=100] [--out=DIR]

The new run has the config of WORKDIR/config.json. Its metrics must be those of WORKDIR/metrics.jsonl
bit by bit, pairs_per_second apart; the exit status is 1 if they are not. On another machine, or with
another number of devices, sums are rounded in another order: the differences of the environment are
printed first.
"""

import contextlib
import tempfile

from absl import flags

import input_pipeline
from pgs.errors import Stopped, UserError
from pgs.run import reproduction
from pgs.train import train
from pgs.utils import cli
from pgs.utils.files import absolute

STEPS = flags.DEFINE_integer('steps', 100, 'Steps to repeat, from the start of the run.', 1)
OUT = flags.DEFINE_string('out', None, 'Folder of the new run; by default a temporary one.')


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError('give the folder of one run: python -m pgs.reproduce WORKDIR')
    input_pipeline.hide_accelerators_from_tensorflow()
    original = absolute(argv[1])
    config = reproduction.read_config(original)
    steps = min(STEPS.value, config.total_steps)
    with tempfile.TemporaryDirectory() as temporary:
        repeated = absolute(OUT.value or temporary)
        with contextlib.suppress(Stopped):  # after these steps, as asked, or by Ctrl-C
            train(config, repeated, last_step=steps)
        for line in reproduction.environment_differences(original, repeated):
            print(f'differs: {line}')
        count, different = reproduction.metric_differences(original, repeated, steps)
    if not count:
        raise UserError(
            f'no line to compare up to step {steps}: the run logs every '
            f'{config.log_every} steps, take a larger --steps'
        )
    if different:
        more = f' (and {len(different) - 1} more)' if len(different) > 1 else ''
        raise UserError(f'the metrics differ: {different[0]}{more}')
    print(f'{count} lines of metrics up to step {steps} are equal bit by bit')


if __name__ == '__main__':
    cli.run(main, lambda argv: cli.parse_flags(argv, positional=1))
