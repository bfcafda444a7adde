"""The default of main.py: a small CLIP-PGS on the embedded OpenMoji images, on a laptop's CPU.

Command:  python main.py
Time:     under 8 minutes on 2 CPU cores
Result:   held-out recall@5 above 50 %, mean of both directions, where chance is 1.2 %
"""

from configs import base


def get_config():
    config = base.get_config()
    config.batch_size = 256
    config.total_steps = 250
    config.log_every = 10
    config.checkpoint_every = 50

    config.data.name = 'openmoji'
    config.model.embed_dim = 128
    config.model.image.update(image_size=64, patch_size=8, width=128, layers=4, heads=4)
    config.model.text.update(context_length=24, width=128, layers=3, heads=4)
    config.optimizer.warmup_steps = 50
    return config
