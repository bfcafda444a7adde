"""The default of main.py: a small CLIP-PGS on emoji over photographs, on a laptop's CPU.

Command:  python main.py
Time:     4 to 8 minutes of training on 2 CPU cores
Result:   held-out recall@5 above 50 %, mean of both directions, where chance is 1.2 %
"""

from configs import base


def get_config():
    config = base.get_config()
    config.batch_size = 256
    config.total_steps = 400
    config.log_every = 10
    config.checkpoint_every = 50
    config.eval_masked = True

    config.data.name = 'openmoji_scenes'
    config.model.embed_dim = 128
    config.model.image.update(image_size=64, patch_size=8, width=128, layers=4, heads=4)
    config.model.text.update(context_length=24, width=128, layers=3, heads=4)
    config.model.text.tokens_per_pair = 11  # a caption has 9 on average: none is cut
    config.optimizer.warmup_steps = 50
    config.masking.until = 0.95  # the last 20 steps see whole images, with a warm-up of their own
    config.optimizer.update(tail_rate=3e-4, tail_warmup_steps=5)
    return config
