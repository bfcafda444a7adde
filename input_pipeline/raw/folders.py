"""Rows of a folder of images: with a text file beside each, or with folders as classes."""

import os
from collections.abc import Iterator

from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.raw.lines import is_utf8
from input_pipeline.raw.samples import Row
from pgs.errors import UserError

PLACE = '{}'  # of the class name in --template


def files_of(folder: str, *, without: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder below, '' for itself; names of its files), sorted, one folder in memory.

    Hidden files and folders are left out, and links to folders are not followed.

    Args:
      folder: where to look.
      without: a folder that is left out: that of the prepared data set.

    Raises:
      UserError: a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise UserError(f'cannot read {error.filename}: {error.strerror}') from error

    for path, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith('.') and os.path.join(path, name) != without
        )
        below = os.path.relpath(path, folder)
        below = '' if below == '.' else below
        yield below, sorted(name for name in files if not name.startswith('.'))


def text_file_rows(folder: str, *, without: str) -> Iterator[Row]:
    """A row for each image, with NAME.txt beside it; a row for each text file without an image."""
    for below, names in files_of(folder, without=without):
        texts: dict[str, str] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == '.txt':
                texts.setdefault(stem, name)
        used = set()
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                text = texts.get(stem)
                used.add(text)
                yield checked(os.path.join(below, name), text and os.path.join(below, text))
        for name in texts.values():
            if name not in used:
                yield checked(None, os.path.join(below, name))


def checked(image: str | None, text_file: str | None) -> Row:
    """The row of an image and its text file; a defect where a name is not UTF-8."""
    if not all(is_utf8(name) for name in (image, text_file) if name):
        return Row(defect='unsafe_name')
    return Row(image, text_file=text_file, identity=image or text_file)


def class_rows(folder: str, template: str, *, without: str) -> Iterator[Row]:
    """A row for each image; its caption is the template with the name of its folder.

    An underscore of the name becomes a space. An image beside the class folders has no caption.
    """
    for below, names in files_of(folder, without=without):
        name = os.path.basename(below).replace('_', ' ').strip()
        captions = (template.replace(PLACE, name),) if name else ()
        for file in names:
            if file.lower().endswith(IMAGE_SUFFIXES):
                row = checked(os.path.join(below, file), None)
                yield row if row.defect else row._replace(captions=captions)


def check_template(template: str) -> None:
    """Raises UserError if it lacks the place of the class name."""
    if PLACE not in template:
        raise UserError(f"--template={template!r} lacks {PLACE}: such as 'a photo of a {PLACE}'")
