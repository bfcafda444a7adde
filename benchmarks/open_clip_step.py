"""open_clip_torch's train step and patch dropout, for benchmarks/versus_open_clip.py."""

import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from benchmarks import common
from pgs.errors import UserError


def libraries() -> tuple[ModuleType, ModuleType]:
    """(torch, open_clip).

    Raises:
      UserError: one of them cannot be imported; the message has the command that installs them.
    """
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise UserError(
            'this compares with open_clip_torch, which cannot be imported here '
            f'({error}): pip install -r requirements-bench.txt'
        ) from error
    return torch, open_clip


def patch_dropout(ratio: float) -> Any:
    """The torch module that open_clip's image tower builds for a ratio."""
    torch, open_clip = libraries()
    return open_clip.transformer.PatchDropout(ratio) if ratio else torch.nn.Identity()


def make_step(config: ConfigDict) -> Callable[[float], float]:
    """A train step as open_clip's own training script does it: ratio of patch dropout -> loss."""
    torch, open_clip = libraries()
    model = open_clip.create_model('ViT-B-16', precision='fp32').train()
    loss_fn = open_clip.loss.ClipLoss()
    batch = common.random_batch(config)
    images = torch.from_numpy(batch['images']).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
    tokens = torch.from_numpy(batch['tokens']).long()

    def decayed(name: str, parameter: Any) -> bool:
        return parameter.ndim >= 2 and not any(part in name for part in ('ln', 'bias'))

    parameters = list(model.named_parameters())
    recipe = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {'params': [p for n, p in parameters if not decayed(n, p)], 'weight_decay': 0.0},
            {'params': [p for n, p in parameters if decayed(n, p)]},
        ],
        lr=recipe.peak_learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
        weight_decay=recipe.weight_decay,
    )

    def step(ratio: float) -> float:
        model.visual.patch_dropout = patch_dropout(ratio)
        optimizer.zero_grad()
        loss = loss_fn(*model(images, tokens))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.item()

    return step


def count_tokens(config: ConfigDict, ratio: float) -> int:
    """Tokens of an image in open_clip's image tower, with the class token."""
    torch, _ = libraries()
    image = config.model.image
    patches = (image.image_size // image.patch_size) ** 2
    return patch_dropout(ratio)(torch.zeros(1, patches + 1, 1)).shape[1]


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of torch's fastest float32 product of two square matrices, as common.matmul_peak."""
    torch, _ = libraries()
    a = torch.full((size, size), 1 / size)

    def seconds() -> float:
        start = time.perf_counter()
        a @ a
        return time.perf_counter() - start

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(repeats))
