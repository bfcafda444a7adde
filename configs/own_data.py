"""A small CLIP-PGS on your own images, on a laptop's CPU, with held-out scores while it trains.

Command:  python -m input_pipeline.prepare --source=PHOTOS --held_out=0.05 --out=DATA
          python main.py --config=configs/own_data.py --config.data.dir=DATA --workdir=runs/own
Time:     4 to 8 minutes of training on 2 CPU cores, as the quickstart
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.data.name = 'pairs'  # as input_pipeline.prepare names its data sets
    config.data.dir = ''  # give the folder: --config.data.dir=DATA
    config.model.text.tokens_per_pair = None  # captions of any length, up to the context
    config.evals = ('held_out',)
    config.eval_every = 50
    return config
