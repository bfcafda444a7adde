"""The peer with a centered mask: GLIP at 0.5, ViT-B/16, CC12M (arXiv 2403.15837).

Command:  python main.py --config=configs/vitb16_glip.py              the PGS paper's recipe: 32
                                                                      epochs at batch 4096
          python main.py --config=configs/vitb16_glip.py:published    GLIP's own recipe: 30 epochs
                                                                      at batch 1280
Time:     no figure; the tower sees the same 98 of 196 patches as in vitb16_flip.py
Result:   the PGS paper has no GLIP. GLIP's own figures, with its own recipe: ImageNet-1K zero-shot
          37.1, and 37.2 after an epoch without a mask; CLIP 36.5, FLIP at 0.5 36.1.

The epochs are GLIP's own statement. Batch (320 on each of 4 devices), crop scale and learning rate
are the commands of its README. The rest is what its trainer, OpenCLIP, does by default, which is
also the PGS paper's recipe.
"""

from configs import base
from pgs.errors import UserError


def get_config(recipe: str = 'common'):
    if recipe not in ('common', 'published'):
        raise UserError(f'vitb16_glip.py:{recipe} is not a recipe: take :common or :published')
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    config.masking.strategy = 'gaussian'
    config.masking.mask_ratio = 0.5
    if recipe == 'published':
        config.batch_size = 1280
        config.epochs = 30
        config.data.crop_scale = (0.5, 1.0)
    return config
