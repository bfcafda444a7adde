"""Image-text tars for tests: good samples, and every kind of bad one."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image


def encoded(array_or_image, kind='JPEG', **options) -> bytes:
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(seed: int = 0, size=(90, 120)) -> np.ndarray:
    """A random crop of a photograph: uint8 (*size, 3)."""
    photograph = skimage.data.coffee()
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, d - s)) for d, s in zip(photograph.shape, size, strict=False))
    return photograph[top : top + size[0], left : left + size[1]]


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims width x height pixels."""

    def chunk(kind, data):
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b'\0' * 10_000)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', body) + chunk(b'IEND', b'')
    )


def write_tar(path: Path, members) -> None:
    """Writes members: (name, bytes) pairs, or TarInfo objects for special ones."""
    with tarfile.open(path, 'w') as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def pair(key: str, image: bytes, caption: bytes = b'a cup of coffee', suffix: str = 'jpg'):
    return [
        (f'{key}.{suffix}', image),
        (f'{key}.txt', caption),
        (f'{key}.json', b'{"status": "success"}'),
    ]


def good_tar(path: Path, count: int, first: int = 0) -> None:
    write_tar(
        path,
        [
            member
            for i in range(first, first + count)
            for member in pair(f'{i:09}', encoded(photo(i)), f'photo number {i}'.encode())
        ],
    )


def special(name: str, kind: bytes, target: str = '') -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def nasty_members() -> tuple[list, list[tuple[str, str]], list[str]]:
    """Members of one tar with every kind of sample.

    Returns:
      (members, (key, reason) of the samples to drop, keys of the samples to keep).
    """
    array = photo(1)
    good = encoded(array)
    grey16 = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    palette = Image.fromarray(array).quantize(32)
    alpha = Image.fromarray(np.dstack([array, np.full(array.shape[:2], 128, np.uint8)]))
    frames = [Image.fromarray(photo(i)) for i in (1, 2, 3)]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    keep = {
        'plain': pair('plain', good),
        'grey': pair('grey', encoded(array[..., 0])),
        'cmyk': pair('cmyk', encoded(Image.fromarray(array).convert('CMYK'))),
        'alpha': pair('alpha', encoded(alpha, 'PNG'), suffix='png'),
        'palette': pair('palette', encoded(palette, 'PNG'), suffix='png'),
        'grey16': pair('grey16', encoded(grey16, 'PNG'), suffix='png'),
        'gif': pair(
            'gif', encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:]), suffix='gif'
        ),
        'webp': pair(
            'webp',
            encoded(frames[0], 'WEBP', save_all=True, append_images=frames[1:]),
            suffix='webp',
        ),
        'rotated': pair('rotated', encoded(Image.fromarray(array), exif=exif)),
        'png_called_jpg': pair('png_called_jpg', encoded(array, 'PNG')),
        'progressive': pair('progressive', encoded(Image.fromarray(array), progressive=True)),
        'bom': pair('bom', good, '\ufeffcafé ☕'.encode()),
        'upper': [('upper.JPG', good), ('upper.txt', b'upper case')],
    }
    drop = {
        'truncated': (pair('truncated', good[: len(good) // 2]), 'broken_image'),
        'zero': (pair('zero', b''), 'empty_image'),
        'html': (pair('html', b'<html><body>404 Not Found</body></html>'), 'not_an_image'),
        'one_pixel': (pair('one_pixel', encoded(np.zeros((1, 1, 3), np.uint8))), 'image_too_small'),
        'strip': (pair('strip', encoded(np.zeros((10, 20000, 3), np.uint8))), 'image_too_small'),
        'bomb': (pair('bomb', bomb_png(60_000, 60_000), suffix='png'), 'image_too_large'),
        'small_bomb': (
            pair('small_bomb', bomb_png(12_000, 10_000), suffix='png'),
            'image_too_large',
        ),
        'no_caption': ([('no_caption.jpg', good)], 'no_caption'),
        'no_image': ([('no_image.txt', b'nothing to see')], 'no_image'),
        'empty': (pair('empty', good, b' \n\t'), 'empty_caption'),
        'latin1': (pair('latin1', good, 'café'.encode('latin-1')), 'caption_not_utf8'),
        'huge_caption': (pair('huge_caption', good, b'a' * 10_000_000), 'caption_too_long'),
        'two_images': (
            [('two_images.jpg', good), ('two_images.png', good), ('two_images.txt', b'x')],
            'duplicate_key',
        ),
        '../../escape.jpg': ([('../../escape.jpg', good)], 'unsafe_name'),
        '/absolute.jpg': ([('/absolute.jpg', good)], 'unsafe_name'),
        'link.jpg': ([special('link.jpg', tarfile.SYMTYPE, '/etc/hostname')], 'not_a_file'),
        'hard.jpg': ([special('hard.jpg', tarfile.LNKTYPE, 'plain.jpg')], 'not_a_file'),
        'device.jpg': ([special('device.jpg', tarfile.CHRTYPE)], 'not_a_file'),
    }
    members = [m for part in keep.values() for m in part]
    members += [m for part, _ in drop.values() for m in part]
    members += pair('plain', encoded(photo(9)), b'the same key again')
    reasons = [(key, reason) for key, (_, reason) in drop.items()] + [('plain', 'duplicate_key')]
    return members, reasons, list(keep)
