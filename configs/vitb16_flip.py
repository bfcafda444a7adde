"""The paper's peer with a random mask: FLIP at 0.5, ViT-B/16, CC12M, 32 epochs at batch 4096.

Command:  python main.py --config=configs/vitb16_flip.py
Time:     the paper's relative training time against unmasked CLIP: 0.5
Result:   the paper's figures. Zero-shot top-1, mean of 17 sets: 33.0. ImageNet-1K zero-shot 34.4,
          linear probe 61.3. COCO text R@1 32.6, image R@1 22.6.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    config.masking.strategy = 'random'
    config.masking.mask_ratio = 0.5
    return config
