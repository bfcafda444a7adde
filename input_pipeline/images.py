"""Decoding and views of images in tf.data graphs; all randomness comes in as numbers."""

import io
import struct

import cykooz_resizer
import numpy as np
import tensorflow as tf
from PIL import Image

ASPECT_RATIOS = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, which the recipe uses
ATTEMPTS = 10
DCT = 'INTEGER_ACCURATE'  # as Pillow decodes; TensorFlow's own choice is off by one here and there
DRAWS = 2 * ATTEMPTS + 2  # uniform numbers that one crop takes: areas, ratios, place


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, BMP or GIF (first frame) bytes to uint8 (H, W, 3)."""
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


# Catmull-Rom is the bicubic kernel with a = -0.5, as Pillow's; convolution means antialiased.
BICUBIC = cykooz_resizer.ResizeOptions(
    resize_alg=cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)
)


def resize_array(image_HxWx3: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with antialias, as Pillow: uint8 (H, W, 3) to uint8 (height, width, 3).

    The library's kernels use the processor's vector instructions and run without Python's lock:
    0.3 ms for 467 x 345 to 224 x 224, where Pillow takes 1.5 and tf.image.resize 2.7.
    """
    pixel_type = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(
        image_HxWx3.shape[1], image_HxWx3.shape[0], pixel_type, image_HxWx3.tobytes()
    )
    target = cykooz_resizer.ImageData(int(width), int(height), pixel_type)
    cykooz_resizer.Resizer().resize(source, target, BICUBIC)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)


def image_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) by the header of an encoded image, in microseconds for a JPEG.

    Raises:
      ValueError: no known image.
    """
    if encoded[:2] == b'\xff\xd8':
        at = 2
        while at + 9 <= len(encoded) and encoded[at] == 0xFF:
            marker = encoded[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
                return struct.unpack('>HH', encoded[at + 5 : at + 9])
            at += 1 if marker == 0xFF else 2 + int.from_bytes(encoded[at + 2 : at + 4])
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f'no image: {error}') from error


def crop_boxes(
    sizes_Bx2: np.ndarray, draws_BxU: np.ndarray, scale: tuple[float, float]
) -> np.ndarray:
    """Boxes of random resized crops, as torchvision draws them.

    Area uniform in scale, aspect ratio log-uniform in [3/4, 4/3]; the first of ten draws that
    fits; else the largest centred box of an allowed aspect ratio.

    Args:
      sizes_Bx2: heights and widths, pixels.
      draws_BxU: (B, DRAWS) in [0, 1); the same draws give the same boxes.
      scale: smallest and largest share of the image's area.

    Returns:
      int32 (B, 4): top, left, box height, box width.
    """
    sizes = np.asarray(sizes_Bx2, np.float64)
    draws = np.asarray(draws_BxU, np.float64)
    area = sizes.prod(axis=1, keepdims=True) * (scale[0] + np.ptp(scale) * draws[:, :ATTEMPTS])
    low, high = np.log(ASPECT_RATIOS)
    ratio = np.exp(low + (high - low) * draws[:, ATTEMPTS:-2])
    sides_BxAx2 = np.round(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1)))
    fits_BxA = ((sides_BxAx2 >= 1) & (sides_BxAx2 <= sizes[:, None])).all(axis=-1)
    drawn = np.take_along_axis(sides_BxAx2, fits_BxA.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    any_fits = fits_BxA.any(axis=1, keepdims=True)

    aspect = np.clip(sizes[:, 1:] / sizes[:, :1], *ASPECT_RATIOS)
    whole = np.round(np.concatenate([sizes[:, 1:] / aspect, sizes[:, :1] * aspect], axis=1))
    box = np.where(any_fits, drawn, np.clip(whole, 1, sizes))
    room = sizes - box
    place = np.where(any_fits, np.floor(draws[:, -2:] * (room + 1)), room // 2)
    return np.concatenate([place, box], axis=1).astype(np.int32)


def cropped(encoded_G: tf.Tensor, boxes_Gx4: tf.Tensor, *, image_size: int) -> tf.Tensor:
    """Training views of a few images: their boxes as uint8 (G, image_size, image_size, 3).

    A JPEG is decoded inside its box only. G is known when the graph is built.
    """

    def decode_box(encoded, box):
        def from_other():
            top, left, height, width = tf.unstack(box)
            return decode(encoded)[top : top + height, left : left + width]

        return tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.image.decode_and_crop_jpeg(encoded, box, channels=3, dct_method=DCT),
            from_other,
        )

    def resize_all(*decoded):
        return np.stack([resize_array(image, image_size, image_size) for image in decoded])

    decoded = [
        decode_box(encoded, box)
        for encoded, box in zip(tf.unstack(encoded_G), tf.unstack(boxes_Gx4), strict=True)
    ]
    views = tf.numpy_function(resize_all, decoded, tf.uint8, stateful=False)
    return tf.ensure_shape(views, [len(decoded), image_size, image_size, 3])


def centre_crop(encoded: bytes, *, image_size: int) -> np.ndarray:
    """Evaluation view by Pillow, as torchvision's Resize and CenterCrop give it.

    Args:
      encoded: an image in any format that Pillow reads, WebP too.
      image_size: the shorter side becomes this long, then the centre is taken; pixels.

    Returns:
      uint8 (image_size, image_size, 3).

    Raises:
      ValueError: no image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image = opened.convert('RGB')  # before the resize, as webdataset hands images over
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'not a readable image ({error})') from error
    short = min(image.size)
    # torchvision cuts the longer side down to a whole pixel, and rounds where the crop begins.
    sides = [int(image_size * side / short) for side in image.size]
    image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (round((side - image_size) / 2.0) for side in sides)
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))
