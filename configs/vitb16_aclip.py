"""The paper's peer with an attentive mask: A-CLIP's mask only, ViT-B/16, CC12M (ICCV 2023).

Command:  python main.py --config=configs/vitb16_aclip.py              the PGS paper's recipe: 32
                                                                       epochs at batch 4096
          python main.py --config=configs/vitb16_aclip.py:published    A-CLIP's own recipe: 25
                                                                       epochs at batch 4096
Time:     no figure; the tower sees 100 of 196 patches, and the scorer costs a twelfth of an
          unmasked image tower's step (docs/masking.md)
Result:   none for this method on CC12M. The PGS paper's A-CLIP has two views and further losses
          (1.1 of CLIP's time; ImageNet-1K zero-shot 35.9). A-CLIP's own figures for the mask with
          one view, on YFCC15M: ImageNet-1K zero-shot 39.5; CLIP 37.6, a random mask 35.0.

Epochs, warm-up, crop scale, betas and epsilon of :published are those of A-CLIP's released code, learning
rate, weight decay and batch the command of its README. Its data is YFCC15M; here it is CC12M. Left
out are its colour augmentations, its frozen patch embedding, and the last learning rate of 1e-5, here 0.
"""

from configs import base
from pgs.errors import UserError

EPOCH = 2678  # steps of an epoch of CC12M at batch 4096


def get_config(recipe: str = 'common'):
    if recipe not in ('common', 'published'):
        raise UserError(f'vitb16_aclip.py:{recipe} is not a recipe: take :common or :published')
    config = base.get_config()
    config.model.text.tokens_per_pair = 32  # a caption of CC12M has 26 on average
    config.masking.strategy = 'attentive'
    config.masking.mask_ratio = 0.5
    if recipe == 'published':
        config.epochs = 25
        config.data.crop_scale = (0.5, 1.0)
        config.optimizer.peak_learning_rate = 5e-4
        config.optimizer.warmup_steps = EPOCH
        config.optimizer.weight_decay = 0.5
        config.optimizer.epsilon = 1e-8
    return config
