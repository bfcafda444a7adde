"""A short phase without a mask after a masked run: ViT-B/16, CC12M, one epoch at batch 4096.

Command:  python main.py --config=configs/vitb16_pgs_tune.py --config.init_from=RUN
          python main.py --config=configs/vitb16_pgs_tune.py:336 --config.init_from=RUN
          RUN is the workdir of configs/vitb16_pgs.py, or any weights of this shape
          (docs/weights.md); :336 is the image size, for which positions are resampled.
Time:     2,678 steps, 3 % of the 85,696 steps of the paper's run; a step costs as much as one of
          vitb16_clip.py
Result:   no figure: the paper has no such phase, and it was not run here on CC12M

Length and learning rate follow methods that adapt a masked model to complete images in this way.
FLIP (arXiv 2212.00794) tunes for 0.32 epochs of its 32 at a hundredth of the learning rate.
CLIPA's ViT-B/16 (arXiv 2305.07017, its published config) tunes for 4,000 steps of 32,768 pairs,
a fifth of them warm-up, at 8e-7 for 256 pairs, which is 1.3e-5 for 4096. 1e-5 is a hundredth of
our peak and close to CLIPA's. The length is a full epoch because CC12M is small: 0.32 epochs are
857 steps.
"""

from configs import base
from pgs.errors import UserError


def get_config(image_size: str = '224'):
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    patch = config.model.image.patch_size
    if not image_size.isdecimal() or not int(image_size) or int(image_size) % patch:
        raise UserError(
            f'vitb16_pgs_tune.py:{image_size} is not an image size: take a multiple of {patch}, as :224'
        )
    config.model.image.image_size = int(image_size)
    config.masking.strategy = 'none'
    config.epochs = 1
    config.optimizer.peak_learning_rate = 1e-5
    config.optimizer.warmup_steps = 500
    return config
