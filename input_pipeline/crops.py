"""Training views: random resized crops, in tf.data graphs. All randomness is an argument.

Shape letters: B images, A attempts of a crop, U uniform numbers of an image, H height, W width.
"""

import functools

import numpy as np
import tensorflow as tf

from input_pipeline.images import resize_array

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop, which the recipe uses
ATTEMPTS = 10
# Decoding as in Pillow; TensorFlow's default differs from it by one level in some pixels.
DCT = 'INTEGER_ACCURATE'
SCALES = (2, 4)  # a JPEG can be decoded at 1/2 or 1/4 of its size
SPARE = 1.5  # with it the views stay within 1.5 of 255 of Pillow's, on the mean (docs/data.md)
DRAWS = 2 * ATTEMPTS + 2  # uniform numbers of one crop: areas, aspect ratios, place


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, BMP or GIF (first frame) bytes to uint8 (H, W, 3)."""
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def crop_boxes(
    sizes_Bx2: np.ndarray, draws_BxU: np.ndarray, scale: tuple[float, float]
) -> np.ndarray:
    """Boxes of random resized crops, with torchvision's rule.

    The area is uniform in `scale`, the aspect ratio log-uniform in [3/4, 4/3]. The first of ten
    attempts that fits into the image is used; if none fits, the largest centred box of an allowed
    aspect ratio.

    Args:
      sizes_Bx2: heights and widths, pixels.
      draws_BxU: (B, DRAWS) in [0, 1); the same draws give the same boxes.
      scale: smallest and largest area, as shares of the image's area.

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
    largest = np.round(np.concatenate([sizes[:, 1:] / aspect, sizes[:, :1] * aspect], axis=1))
    box = np.where(any_fits, drawn, np.clip(largest, 1, sizes))
    room = sizes - box
    place = np.where(any_fits, np.floor(draws[:, -2:] * (room + 1)), room // 2)
    return np.concatenate([place, box], axis=1).astype(np.int32)


def cropped(
    encoded_B: tf.Tensor, boxes_Bx4: tf.Tensor, *, image_size: int, scaled: bool = False
) -> tf.Tensor:
    """Training views: the boxes of encoded images, resized.

    A JPEG is decoded inside its box only. B must be known when the graph is built.

    Args:
      encoded_B: JPEG, PNG, BMP or GIF bytes.
      boxes_Bx4: int32, see `crop_boxes`.
      image_size: pixels of the result.
      scaled: decode a JPEG whose box is much larger than the result at 1/2 or 1/4 of its size, see
        `scaled_pixels`.

    Returns:
      uint8 (B, image_size, image_size, 3).
    """
    samples = list(zip(tf.unstack(encoded_B), tf.unstack(boxes_Bx4), strict=True))
    count = len(samples)
    if scaled:
        parts = [scaled_pixels(*sample, image_size) for sample in samples]
        decoded, boxes = [pixels for pixels, _ in parts], [box for _, box in parts]
    else:
        decoded, boxes = [box_pixels(*sample) for sample in samples], []

    def resize_all(*arrays):
        boxes = arrays[count:] or [None] * count
        return np.stack(
            [
                resize_array(image, image_size, image_size, box)
                for image, box in zip(arrays[:count], boxes, strict=True)
            ]
        )

    views = tf.numpy_function(resize_all, [*decoded, *boxes], tf.uint8, stateful=False)
    return tf.ensure_shape(views, [count, image_size, image_size, 3])


def box_pixels(encoded: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The pixels of a box (int32: top, left, height, width) of an encoded image, uint8 (H, W, 3)."""

    def from_other():
        top, left, height, width = tf.unstack(box)
        return decode(encoded)[top : top + height, left : left + width]

    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.image.decode_and_crop_jpeg(encoded, box, channels=3, dct_method=DCT),
        from_other,
    )


def scaled_pixels(
    encoded: tf.Tensor, box: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels of a box of an encoded image, of a JPEG possibly at a part of its size.

    A JPEG's blocks of 8 x 8 pixels can be decoded to 4 x 4 or 2 x 2, which takes less time. It is
    done where the box at that size is still SPARE times as long as the result on both sides.

    Args:
      encoded: JPEG, PNG, BMP or GIF bytes.
      box: int32 (4,): top, left, height, width.
      image_size: pixels of the result that the box will be resized to.

    Returns:
      (uint8 (H, W, 3), float64 (4,): the box in these pixels, parts of a pixel included).
    """

    def whole():
        return box_pixels(encoded, box), tf.cast(box, tf.float64) * [0, 0, 1, 1]

    def part(scale: int):
        start, end = box[:2] // scale, -(-(box[:2] + box[2:]) // scale)
        around = tf.concat([start, end - start], 0)
        pixels = tf.image.decode_and_crop_jpeg(
            encoded, around, channels=3, dct_method=DCT, ratio=scale
        )
        return pixels, tf.cast(box, tf.float64) / scale - tf.cast(
            tf.concat([start, [0, 0]], 0), tf.float64
        )

    side = tf.cast(tf.reduce_min(box[2:]), tf.float64)
    fitting = (side >= SPARE * image_size * np.array(SCALES)) & tf.io.is_jpeg(encoded)
    number = tf.reduce_sum(tf.cast(fitting, tf.int32))
    return tf.switch_case(number, [whole, *(functools.partial(part, s) for s in SCALES)])
