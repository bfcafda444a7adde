"""The rules for training samples: images that decode, captions with visible text.

Every rule has a name, under which dropped samples are counted (explained in docs/data.md).
"""

import io
import re
from typing import NamedTuple, cast

from PIL import Image, ImageOps

from input_pipeline.images import MAX_PIXELS, open_image

MIN_SIDE = 16  # pixels: one patch of ViT-B/16
MAX_CAPTION_BYTES = 65_536
# Start-of-frame markers of arithmetic coding, which Pillow can read and TensorFlow cannot.
ARITHMETIC_CODING = (b'\xff\xc9', b'\xff\xca', b'\xff\xcb')
SEGMENT = re.compile(rb'\xff+([^\x00\xff])', re.DOTALL)
AFTER_SCAN = re.compile(rb'\xff+([^\x00\xff\xd0-\xd7])', re.DOTALL)  # no escaped byte, no restart
START_OF_SCAN, END_OF_IMAGE = b'\xda', b'\xd9'
BETWEEN_SCANS = (
    b'\xc4',
    b'\xda',
    b'\xdb',
    b'\xdd',
    b'\xfe',
    END_OF_IMAGE,
)  # tables, scans, comments
JPEG_QUALITY = 95  # of images that are encoded again

REASONS = {
    'no_image': 'a caption without an image file beside it',
    'no_caption': 'an image without a caption file beside it',
    'empty_image': 'an image file of zero bytes',
    'not_an_image': 'not an image of a known format, such as an HTML error page',
    'broken_image': 'an image that does not decode completely',
    'image_too_large': f'over {MAX_PIXELS // 1_000_000} million pixels by its header, or a huge file',
    'image_too_small': f'a side under {MIN_SIDE} pixels',
    'empty_caption': 'a caption without a visible character',
    'caption_not_utf8': 'a caption that is not UTF-8',
    'caption_too_long': f'a caption of more than {MAX_CAPTION_BYTES} bytes',
    'duplicate_key': 'a key that the same shard had before',
    'unsafe_name': 'a name that leaves its folder, is absolute, or is not UTF-8',
    'not_a_file': 'a link, a device, a pipe or another special file',
    'shard_cut': 'the sample at which a damaged or cut tar or parquet file ends',
    'image_is_url': 'a URL where a file is expected',
    'broken_row': 'a row that is no JSON object, has a lone quote, or values that are no text',
    'row_too_long': 'a row of a table of more than 1 MiB',
    'other_split': "an image of Karpathy's splits val and test, which are for evaluation",
}


class DropError(Exception):
    """A sample that is dropped; args[0] is a key of REASONS."""


class CheckedImage(NamedTuple):
    """JPEG bytes that TensorFlow decodes to RGB, and the size in pixels."""

    jpeg: bytes
    height: int
    width: int


def check_caption(encoded: bytes) -> str:
    """The text of a caption, without outer white space.

    Raises:
      DropError: empty, too long or not UTF-8.
    """
    if len(encoded) > MAX_CAPTION_BYTES:
        raise DropError('caption_too_long')
    try:
        text = encoded.decode('utf-8-sig').strip()
    except UnicodeDecodeError as error:
        raise DropError('caption_not_utf8') from error
    if not any(c.isprintable() and not c.isspace() for c in text):
        raise DropError('empty_caption')
    return text


def check_image(encoded: bytes, max_side: int | None = None) -> CheckedImage:
    """Decodes an image completely and returns it as a JPEG.

    A plain, complete, upright RGB or grey JPEG is kept byte for byte. Any other image is encoded again as
    8-bit RGB: transparent pixels are blended over white, an animation gives its first frame, and
    EXIF orientation is applied, so that the stored pixels are upright.

    Args:
      encoded: bytes of a format in images.FORMATS.
      max_side: pixels; an image with a longer side is scaled down to it (antialiased bicubic).

    Raises:
      DropError: empty, not an image, broken, too large or too small.
    """
    if not encoded:
        raise DropError('empty_image')
    try:
        image = open_image(encoded)
    except Image.DecompressionBombError as error:
        raise DropError('image_too_large') from error
    except Exception as error:  # Pillow's readers raise many types of errors
        raise DropError('not_an_image') from error
    if min(image.size) < MIN_SIDE:
        raise DropError('image_too_small')
    try:
        image.load()
        orientation = image.getexif().get(0x0112, 1)
        plain = image.format == 'JPEG' and image.mode in ('RGB', 'L') and orientation in (0, 1)
        plain = plain and not any(marker in encoded for marker in ARITHMETIC_CODING)
        plain = plain and is_complete(encoded)
        if plain and not (max_side and max(image.size) > max_side):
            return CheckedImage(encoded, image.height, image.width)
        return encode_again(image, max_side)
    except DropError:
        raise
    except Exception as error:
        raise DropError('broken_image') from error


def is_complete(jpeg: bytes) -> bool:
    """Whether each scan of a JPEG ends at another one or at the end mark.

    Pillow fills in what is missing of a damaged one; TensorFlow refuses it.
    """
    at = 2
    while found := SEGMENT.match(jpeg, at):
        marker = found[1]
        if marker == END_OF_IMAGE:
            return True
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
        if marker == START_OF_SCAN:
            after = AFTER_SCAN.search(jpeg, at)
            if after is None or after[1] not in BETWEEN_SCANS:
                return False
            at = after.start()
    return False


def encode_again(image: Image.Image, max_side: int | None) -> CheckedImage:
    """A loaded image as an upright 8-bit RGB JPEG, its longer side at most max_side.

    Raises:
      DropError: too small after scaling.
    """
    image = to_rgb(ImageOps.exif_transpose(image))
    if max_side and max(image.size) > max_side:
        factor = max_side / max(image.size)
        width, height = (max(1, round(side * factor)) for side in image.size)
        if min(width, height) < MIN_SIDE:
            raise DropError('image_too_small')
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=JPEG_QUALITY)
    return CheckedImage(buffer.getvalue(), image.height, image.width)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparent pixels are blended over white, 16-bit grey is scaled by 1/257."""
    if image.mode.startswith('I') or image.mode == 'F':
        deep = image.mode != 'F' and (
            image.mode.startswith('I;16') or cast(tuple[float, float], image.getextrema())[1] > 255
        )
        image = image.convert('F').point(lambda v: v * (1 / 257 if deep else 1.0) + 0.0)
        return image.convert('L').convert('RGB')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')
