"""The paper's run: ViT-B/16, CC12M, 32 epochs at batch 4096 (arXiv 2503.17080).

Command:  python main.py --config=configs/vitb16_pgs.py        PGS-0.3, masks 30 to 50 % by content
          python main.py --config=configs/vitb16_pgs.py:0.5    PGS-0.5, masks one half of each image
Time:     the paper's relative training time against unmasked CLIP: 0.6 (PGS-0.3), 0.5 (PGS-0.5)
Result:   the paper's figures. Zero-shot top-1, mean of 17 sets: 39.5 (PGS-0.3), 37.6 (PGS-0.5).
          ImageNet-1K zero-shot 38.6 and 38.0, linear probe 64.4 and 64.2.
          COCO text R@1 36.0 and 35.2, image R@1 25.1 and 24.3.
"""

from configs import base
from pgs.errors import UserError

RATIOS = {'0.3': (0.3, 0.5), '0.5': (0.5, 0.5)}


def get_config(variant: str = '0.3'):
    if variant not in RATIOS:
        raise UserError(f'vitb16_pgs.py:{variant} is not a variant of the paper: take :0.3 or :0.5')
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    config.masking.strategy = 'pgs'
    config.masking.min_ratio, config.masking.max_ratio = RATIOS[variant]
    return config
