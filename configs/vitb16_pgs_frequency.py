"""Both masks: PGS-0.3 on images and CLIPF's word frequency on captions, ViT-B/16, CC12M.

Command:  python main.py --config=configs/vitb16_pgs_frequency.py       8 text tokens
          python main.py --config=configs/vitb16_pgs_frequency.py:16    16 text tokens
Time:     31 epochs at most at that of configs/vitb16_pgs.py (0.6 of unmasked CLIP), since the text
          tower is shorter, and one epoch at that of unmasked CLIP
Result:   none is published. CLIPF with a random image mask of one half and 8 text tokens: ImageNet-1K
          zero-shot 39.8, tuned 41.0 (CLIPF's own recipe); PGS-0.3 with 77 text tokens: 38.6.

The text tower has 77 positions, which evaluation uses for unmasked captions. The masked steps train
the first 8 or 16. The last of 32 epochs reads whole images and captions, so that the others are
trained too, at the learning rate of configs/vitb16_pgs_tune.py; --config.masking.until=1 leaves
this epoch out. The words of all captions are counted by input_pipeline.prepare, or before the first
step (docs/data.md).
"""

from configs import vitb16_pgs, vitb16_pgs_tune
from pgs.errors import UserError

TOKENS = {'8': 8, '16': 16}  # with start and end token


def get_config(tokens: str = '8'):
    if tokens not in TOKENS:
        raise UserError(f'vitb16_pgs_frequency.py:{tokens}: take :8 or :16 text tokens')
    config, tune = vitb16_pgs.get_config(), vitb16_pgs_tune.get_config()
    config.text_masking.strategy = 'frequency'
    config.text_masking.context_length = TOKENS[tokens]
    config.masking.until = 1 - tune.epochs / config.epochs
    config.optimizer.tail_rate = tune.optimizer.peak_learning_rate
    config.optimizer.tail_warmup_steps = tune.optimizer.warmup_steps
    return config
