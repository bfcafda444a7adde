"""Trains CLIP-PGS.

  python main.py [--config=configs/FILE.py] [--workdir=DIR] [--config.KEY=VALUE ...]

Without --config it runs configs/quickstart.py: minutes on a laptop's CPU, nothing to download.
Without --workdir it writes to a dated folder under runs/. The same --workdir again resumes the run.
On a pod or cluster, start the same command on every host, with one --workdir (docs/pods.md).
Every key of configs/base.py is a flag: --config.total_steps=100 --config.masking.strategy=random
"""

from pgs.utils import exits

if __name__ == '__main__':
    exits.install()  # before the other imports, which take seconds

import datetime
import os
import sys

from absl import flags
from ml_collections import config_flags

import input_pipeline
from pgs.errors import Stopped, UserError
from pgs.utils import cli

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; a run in it is resumed.')
QUICKSTART = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'configs', 'quickstart.py')


def main(argv: list[str]) -> None:
    del argv
    import jax

    from pgs.train import train
    from pgs.utils import compile_cache, distributed, watchdog

    watchdog.start(float(CONFIG.value.silence_limit))
    input_pipeline.hide_accelerators_from_tensorflow()
    dated = os.path.join('runs', datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S'))
    distributed.start()
    if jax.process_count() > 1:
        exits.hand_over()
    if jax.process_count() > 1 and not WORKDIR.value:
        raise UserError('several processes need one --workdir that all of them see')
    compile_cache.use(CONFIG.value.compile_cache)
    try:
        train(CONFIG.value, WORKDIR.value or dated)
    except Stopped as stopped:
        distributed.print_once(stopped)
        sys.exit(exits.STOPPED)


if __name__ == '__main__':
    cli.run(main, cli.config_parser(CONFIG, QUICKSTART))
