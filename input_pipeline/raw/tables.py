"""Rows of tables: CSV, TSV, lines of JSON, and parquet whose images are paths.

Every row becomes a `Row`, a bad one with its defect. Blank lines are no rows.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.raw import columns
from input_pipeline.raw.columns import Columns
from input_pipeline.raw.image_files import is_url
from input_pipeline.raw.lines import Lines, RowTooLongError, check_encoding, is_utf8
from input_pipeline.raw.samples import Row
from pgs.errors import UserError
from pgs.utils.files import check_regular, parse_json

DELIMITERS = {'.csv': ',;|\t', '.tsv': '\t'}  # those that are tried, in order
LOOKED_AT = 100  # lines in which the columns of a .jsonl are looked for


class Text(NamedTuple):
    """How a CSV or TSV is written."""

    delimiter: str
    header: bool  # the first row names the columns
    names: list[str]  # of the columns; '1', '2', ... without a header


def open_text(path: Path, image_key: str | None, caption_key: str | None) -> tuple[Text, Columns]:
    """Finds out how a CSV or TSV is written, and its columns.

    Without a header, a first row that names an image file, its columns are called '1', '2', ...

    Raises:
      UserError: a table without rows, in another encoding, or without these columns.
      OSError: a file that cannot be read.
    """
    check_regular(path)
    check_encoding(path)
    failed: list[tuple[int, UserError]] = []
    for delimiter in DELIMITERS[path.suffix.lower()]:
        cells = next((row for row in csv_rows(path, delimiter) if isinstance(row, list)), None)
        if cells is None:
            raise UserError(f'{path} has no rows')
        image, caption = image_key, caption_key
        named = [str(i) for i, cell in enumerate(cells, 1) if names_image(cell)]
        if named:
            text = Text(delimiter, False, [str(i) for i in range(1, len(cells) + 1)])
            image = image or named[0]
            others = [name for name in text.names if name != image]
            caption = caption or (others[0] if len(others) == 1 else None)
        else:
            text = Text(delimiter, True, [cell if is_utf8(cell) else '?' for cell in cells])
        try:
            return text, columns.choose(text.names, str(path), image, caption)
        except UserError as error:
            failed.append((len(cells), error))
    raise max(failed, key=lambda tried: tried[0])[1]  # the delimiter that gives most columns


def names_image(cell: str) -> bool:
    """Whether a cell is the name of an image file, or an address, rather than a column's name."""
    return cell.strip().lower().endswith(IMAGE_SUFFIXES) or is_url(cell)


def csv_rows(path: Path, delimiter: str) -> Iterator[list[str] | str]:
    """Yields the cells of each row, or the defect of one that cannot be read.

    Quotes as in RFC 4180: a quoted cell may hold delimiters, line ends and doubled quotes.
    """
    with path.open('rb') as file:
        lines = Lines(file)
        reader = csv.reader(lines, delimiter=delimiter)
        while True:
            lines.start_row()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except RowTooLongError:
                yield 'row_too_long'
            except csv.Error:  # a cell of more than csv.field_size_limit(), as after a lone quote
                yield 'broken_row'
            else:
                if any(cell.strip() for cell in cells):
                    yield cells


def text_rows(path: Path, text: Text, chosen: Columns) -> Iterator[Row]:
    """The rows of a CSV or TSV, without its header."""
    image, caption = (text.names.index(name) for name in chosen)
    header = text.header
    for cells in csv_rows(path, text.delimiter):
        if isinstance(cells, str):
            yield Row(defect=cells)
        elif header:
            header = False
        else:
            yield row_of(
                cells[image] if image < len(cells) else None,
                cells[caption] if caption < len(cells) else None,
            )


def row_of(image: Any, caption: Any) -> Row:
    """A row of the values of two columns: a path; a caption, or a list of them."""
    image = None if image is None or image == '' else image
    captions = [] if caption is None else caption if isinstance(caption, list) else [caption]
    captions = [c for c in captions if c is not None]
    if not isinstance(image, str | None) or not all(isinstance(c, str) for c in captions):
        return Row(defect='broken_row')
    if image and not is_utf8(image):
        return Row(defect='unsafe_name')
    if not all(map(is_utf8, captions)):
        return Row(defect='caption_not_utf8')
    return Row(image.strip() or None if image else None, tuple(captions))


def json_lines(path: Path) -> Iterator[dict[str, Any] | str]:
    """Yields the object of each line, or the defect of one that cannot be read."""
    with path.open('rb') as file:
        lines = Lines(file)
        while True:
            lines.start_row()
            try:
                line = lines.next_bytes()
            except StopIteration:
                return
            except RowTooLongError:
                yield 'row_too_long'
                continue
            if not line.strip():
                continue
            try:
                content = parse_json(line)
            except ValueError as error:
                not_utf8 = isinstance(error.__cause__, UnicodeDecodeError)
                yield 'caption_not_utf8' if not_utf8 else 'broken_row'
            else:
                yield content if isinstance(content, dict) else 'broken_row'


def object_rows(objects: Iterator[dict[str, Any] | str], chosen: Columns) -> Iterator[Row]:
    """The rows of JSON objects."""
    for item in objects:
        if isinstance(item, str):
            yield Row(defect=item)
        else:
            yield row_of(item.get(chosen.image), item.get(chosen.caption))


def object_columns(
    objects: Iterator[dict[str, Any] | str],
    where: Path,
    image_key: str | None,
    caption_key: str | None,
) -> Columns:
    """The columns of JSON objects, by the names in the first ones.

    Raises:
      UserError: no object, or none with these columns.
    """
    names: dict[str, None] = {}
    for _, item in zip(range(LOOKED_AT), objects, strict=False):
        if isinstance(item, dict):
            names.update(dict.fromkeys(item))
    if not names:
        raise UserError(f'{where} has no rows that are JSON objects, such as {EXAMPLE}')
    return columns.choose(list(names), str(where), image_key, caption_key)


EXAMPLE = json.dumps({'image': 'cat.jpg', 'caption': 'a cat'})


def where(paths: Sequence[Path]) -> str:
    """'pairs.csv', or '3 files such as a.parquet', for messages."""
    name = str(paths[0])
    return name if len(paths) == 1 else f'{len(paths)} files such as {name}'
