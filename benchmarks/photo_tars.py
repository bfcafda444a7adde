"""Image-text tars of photographs, for benchmarks of preparing and reading."""

import io
import tarfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from pgs.masking.object_retention import PHOTOGRAPHS

WIDTH = 480
SHARDS = 4


def make_tars(folder: Path, count: int, shards: int = SHARDS, width: int = WIDTH) -> str:
    """Writes tars of random crops of photographs, three quarters as high as wide.

    Returns:
      Their pattern.
    """
    size = (width, width * 3 // 4)
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    for shard in range(shards):
        with tarfile.open(folder / f'{shard:05}.tar', 'w') as tar:
            for i in range(shard * count // shards, (shard + 1) * count // shards):
                photo = photographs[i % len(photographs)]
                scale = rng.uniform(0.75, 1.0)
                w = min(photo.width, photo.height * 4 / 3) * scale
                h = w * 3 / 4
                left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
                view = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + w, top + h))
                buffer = io.BytesIO()
                view.save(buffer, 'JPEG', quality=90)
                files = (('jpg', buffer.getvalue()), ('txt', f'a photograph, number {i}'.encode()))
                for suffix, content in files:
                    member = tarfile.TarInfo(f'{i:09}.{suffix}')
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f'{folder}/{{00000..{shards - 1:05}}}.tar'
