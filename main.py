"""Trains CLIP-PGS.

  python main.py [--config=configs/FILE.py] [--workdir=DIR] [--config.KEY=VALUE ...]

Without --config it runs configs/quickstart.py: minutes on a laptop's CPU, nothing to download.
Without --workdir it writes to a dated folder under runs/. The same --workdir again resumes.
On a pod or cluster, start the same command on every host, with one --workdir (docs/pods.md).
Every key of configs/base.py is a flag: --config.total_steps=100 --config.masking.strategy=random
"""

import datetime
import os
import sys

# Before TensorFlow, which only reads data here, is loaded: it greets at length otherwise.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

from absl import app, flags, logging
from ml_collections import config_flags

from pgs import cli
from pgs.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; what it holds is resumed.')
QUICKSTART = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'configs', 'quickstart.py')


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)

    import jax
    import tensorflow as tf

    from pgs import distributed
    from pgs.interrupt import Stopped
    from pgs.train import train

    tf.config.set_visible_devices([], 'GPU')  # the accelerators are JAX's
    dated = os.path.join('runs', datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S'))
    try:
        distributed.start()
        if jax.process_count() > 1 and not WORKDIR.value:
            raise UserError('several processes need one --workdir that all of them see')
        train(CONFIG.value, WORKDIR.value or dated)
    except UserError as error:
        sys.exit(f'error: {error}')
    except Stopped as stopped:
        distributed.say(stopped)
        sys.exit(130)


if __name__ == '__main__':
    app.run(main, flags_parser=cli.parser(CONFIG, QUICKSTART))
