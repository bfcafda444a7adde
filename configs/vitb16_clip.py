"""The paper's baseline without a mask: CLIP, ViT-B/16, CC12M, 32 epochs at batch 4096.

Command:  python main.py --config=configs/vitb16_clip.py
Time:     the paper's relative training time: 1.0, by definition
Result:   the paper's figures. Zero-shot top-1, mean of 17 sets: 35.1. ImageNet-1K zero-shot 36.1,
          linear probe 62.3. COCO text R@1 34.6, image R@1 23.5.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    config.masking.strategy = 'none'
    return config
