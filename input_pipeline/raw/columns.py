"""Which column of a table is the image and which the caption, by their names."""

from collections.abc import Sequence
from typing import NamedTuple

from pgs.errors import UserError

# The first that a table has is taken. Upper and lower case, spaces and hyphens make no difference.
IMAGE_NAMES = (
    *('image', 'image_path', 'img_path', 'image_file', 'image_filename', 'image_name', 'filepath'),
    *(
        'file_path',
        'file_name',
        'filename',
        'path',
        'file',
        'img',
        'photo',
        'picture',
        'jpg',
        'png',
    ),
    *('image_url', 'img_url', 'url'),
)
CAPTION_NAMES = (
    *('caption', 'captions', 'text', 'texts', 'title', 'sentence', 'sentences', 'description'),
    *('prompt', 'alt_text', 'alt', 'txt', 'comment'),
)
SHOWN = 20  # names of columns in a message


class Columns(NamedTuple):
    """The names of two columns."""

    image: str
    caption: str


def choose(
    names: Sequence[str], where: str, image_key: str | None = None, caption_key: str | None = None
) -> Columns:
    """The columns of image and caption.

    Args:
      names: of all columns.
      where: the table, for messages.
      image_key, caption_key: names that the user gave.

    Raises:
      UserError: a column that is absent, or two that are the same.
    """
    image = find(names, IMAGE_NAMES, image_key)
    caption = find(names, CAPTION_NAMES, caption_key)
    for given, found, what, flag in (
        (image_key, image, 'image', '--image_key'),
        (caption_key, caption, 'caption', '--caption_key'),
    ):
        if found is None:
            known = ', '.join(repr(name[:60]) for name in names[:SHOWN]) or 'none'
            lacks = f'no column {given!r}' if given else f'no column that is known as the {what}'
            raise UserError(f'{where} has {lacks}; its columns are {known}: name one by {flag}')
    if image == caption:
        raise UserError(f'{where}: column {image!r} cannot be both the image and the caption')
    assert image is not None
    assert caption is not None
    return Columns(image, caption)


def find(names: Sequence[str], known: Sequence[str], given: str | None) -> str | None:
    """The given name if the table has it; without one, the first known name that it has."""
    if given is not None:
        return given if given in names else None
    plain = {plain_name(name): name for name in reversed(names)}
    return next((plain[name] for name in known if name in plain), None)


def plain_name(name: str) -> str:
    """A name in lower case, with underscores."""
    return name.strip().lower().replace(' ', '_').replace('-', '_')


def sentence(columns: Columns, where: str) -> str:
    """What was understood, for the console."""
    return f'Reads column {columns.image!r} as image, {columns.caption!r} as caption of {where}'
