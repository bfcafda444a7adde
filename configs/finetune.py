"""Fine-tunes given weights on own data: a run's, OpenCLIP's or Hugging Face's CLIP.

Command:  python main.py --config=configs/finetune.py:WEIGHTS --config.data.dir=DATA --workdir=runs/tuned
          WEIGHTS is any path of docs/weights.md, such as ViT-B-32.safetensors; the model has their
          sizes. DATA is a folder that input_pipeline.prepare wrote.
          --config.masking.strategy=pgs masks the images; --config.model.image.image_size=336 resamples
          the positions; docs/training.md lists what can be frozen, averaged and scheduled
Time:     10 passes over the data; without a mask a step costs as much as one of vitb16_clip.py
Result:   no figure: it depends on the data

A starting point, not a tuned recipe. The rate, the weight decay and the number of epochs are those of
FLYP, which fine-tunes CLIP with its own loss (arXiv 2212.00638, its published code: 1e-5, 0.1, 10
epochs on ImageNet at batch 512 after 500 steps of warm-up); batch and warm-up are smaller here, for
data sets of some thousand pairs.
"""

from ml_collections import config_dict

from configs import base


def get_config(weights: str = ''):
    config = base.get_config()
    config.init_from = weights
    config.model_from_weights = True
    del config.model.image.image_size
    config.model.image.image_size = config_dict.placeholder(int)  # None: that of the weights
    config.batch_size = 128
    config.epochs = 10
    config.log_every = 10
    config.checkpoint_every = 100
    config.evals = ('held_out',)
    config.eval_every = 100
    config.data.name = 'pairs'  # any name, for a prepared folder
    config.data.dir = ''
    config.masking.strategy = 'none'
    config.optimizer.update(peak_learning_rate=1e-5, warmup_steps=20, weight_decay=0.1)
    return config
