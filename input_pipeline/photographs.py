"""The photographs that scikit-image ships with its package; nothing is downloaded."""

import functools

import numpy as np

PHOTOGRAPHS = ('astronaut', 'coffee', 'chelsea', 'rocket', 'hubble_deep_field')


@functools.cache
def full_size() -> tuple[np.ndarray, ...]:
    """The five everyday photographs as they are shipped: uint8 (H, W, 3), 300 to 1000 pixels."""
    from skimage import data

    return tuple(np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS)


def photographs(size: int) -> np.ndarray:
    """The central square of each photograph: uint8 (5, size, size, 3)."""
    from skimage import transform

    out = []
    for image in full_size():
        side = min(image.shape[:2])
        top, left = ((d - side) // 2 for d in image.shape[:2])
        square = image[top : top + side, left : left + side]
        small = transform.resize(square, (size, size), order=3, anti_aliasing=True)
        out.append(np.round(small * 255.0))
    return np.clip(out, 0, 255).astype(np.uint8)
