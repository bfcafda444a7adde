"""Both masks: PGS-0.3 on images and CLIPF's word frequency on captions, ViT-B/16, CC12M.

Command:  python main.py --config=configs/vitb16_pgs_frequency.py       8 text tokens
          python main.py --config=configs/vitb16_pgs_frequency.py:16    16 text tokens
Time:     at most that of configs/vitb16_pgs.py (0.6 of unmasked CLIP): the text tower is shorter
Result:   none is published. CLIPF with a random image mask of one half and 8 text tokens: ImageNet-1K
          zero-shot 39.8, tuned 41.0 (CLIPF's own recipe); PGS-0.3 with 77 text tokens: 38.6.

The words of all captions are counted before the first step, once for a data set (docs/data.md).
"""

from configs import vitb16_pgs
from pgs.errors import UserError

TOKENS = {'8': 8, '16': 16}  # with start and end token


def get_config(tokens: str = '8'):
    if tokens not in TOKENS:
        raise UserError(f'vitb16_pgs_frequency.py:{tokens}: take :8 or :16 text tokens')
    config = vitb16_pgs.get_config()
    config.text_masking.strategy = 'frequency'
    config.model.text.context_length = TOKENS[tokens]
    return config
