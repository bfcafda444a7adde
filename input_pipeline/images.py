"""Image decoding and augmentation in tf.data, drawn from stateless seeds."""

import math

import tensorflow as tf

ASPECT_RATIOS = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, which the recipe uses
ATTEMPTS = 10


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, BMP or GIF (first frame) bytes to uint8 (H, W, 3)."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Bicubic with antialias, as PIL: (H, W, 3) to uint8 (height, width, 3)."""
    resized = tf.image.resize(image, (height, width), method='bicubic', antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)


def crop_box(height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, scale: tuple[float, float]):
    """Box of a random resized crop, as torchvision draws it.

    Area uniform in scale, aspect ratio log-uniform in [3/4, 4/3]; the first of ten draws that
    fits; else the largest centred box of an allowed aspect ratio.

    Args:
      height, width: int32 scalars, pixels.
      seed: int64 (2,); the same seed gives the same box.
      scale: smallest and largest share of the image's area.

    Returns:
      int32 scalars (top, left, box_height, box_width).
    """
    seed_area, seed_ratio, seed_place = tf.unstack(tf.random.split(seed, 3))
    h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = h * w * tf.random.stateless_uniform([ATTEMPTS], seed_area, *scale)
    low, high = (math.log(r) for r in ASPECT_RATIOS)
    ratio = tf.exp(tf.random.stateless_uniform([ATTEMPTS], seed_ratio, low, high))
    box_h, box_w = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (box_h >= 1) & (box_h <= h) & (box_w >= 1) & (box_w <= w)
    first = tf.argmax(fits)

    bounded = tf.clip_by_value(w / h, *ASPECT_RATIOS)
    whole_w = tf.minimum(w, tf.maximum(1.0, tf.round(h * bounded)))
    whole_h = tf.minimum(h, tf.maximum(1.0, tf.round(w / bounded)))
    any_fits = tf.reduce_any(fits)
    box_h = tf.where(any_fits, box_h[first], whole_h)
    box_w = tf.where(any_fits, box_w[first], whole_w)

    place = tf.random.stateless_uniform([2], seed_place)
    top = tf.where(any_fits, tf.floor(place[0] * (h - box_h + 1.0)), (h - box_h) // 2.0)
    left = tf.where(any_fits, tf.floor(place[1] * (w - box_w + 1.0)), (w - box_w) // 2.0)
    return tuple(tf.cast(v, tf.int32) for v in (top, left, box_h, box_w))


def random_resized_crop(
    encoded: tf.Tensor, seed: tf.Tensor, *, image_size: int, scale: tuple[float, float]
) -> tf.Tensor:
    """Training view: encoded bytes to uint8 (image_size, image_size, 3)."""
    image = decode(encoded)
    shape = tf.shape(image)
    top, left, height, width = crop_box(shape[0], shape[1], seed, scale)
    image = image[top : top + height, left : left + width]
    return tf.ensure_shape(resize(image, image_size, image_size), [image_size, image_size, 3])


def centre_crop(encoded: tf.Tensor, *, image_size: int) -> tf.Tensor:
    """Evaluation view: shorter side to image_size, then the centre, uint8 (image_size, image_size, 3)."""
    image = decode(encoded)
    h, w = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    short = tf.minimum(h, w)
    new_h = tf.cast(image_size * h / short, tf.int32)
    new_w = tf.cast(image_size * w / short, tf.int32)
    image = resize(image, new_h, new_w)
    top, left = (new_h - image_size) // 2, (new_w - image_size) // 2
    image = image[top : top + image_size, left : left + image_size]
    return tf.ensure_shape(image, [image_size, image_size, 3])
