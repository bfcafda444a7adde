"""Rows of JSON files: COCO captions, Karpathy's splits, or a list of objects; read item by item."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from input_pipeline.raw.lines import MAX_ROW_BYTES, check_encoding
from input_pipeline.raw.samples import Row
from input_pipeline.raw.tables import row_of
from pgs.errors import UserError
from pgs.utils.files import check_regular

TRAIN_SPLITS = ('train', 'restval')  # of Karpathy's; val and test are for evaluation
CHUNK = 2**16  # bytes that are read at once
MAX_DEPTH = 100


class BoundedFile:
    """A file that gives at most MAX_ROW_BYTES (and a chunk) until `start_item` is called again."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path, self._left = file, path, MAX_ROW_BYTES
        if file.read(3) != b'\xef\xbb\xbf':
            file.seek(0)

    def start_item(self) -> None:
        self._left = MAX_ROW_BYTES

    def read(self, size: int = -1) -> bytes:
        """At most CHUNK bytes.

        Raises:
          UserError: an item of more than MAX_ROW_BYTES.
        """
        if self._left < 0:
            raise UserError(
                f'{self._path} has an item of more than {MAX_ROW_BYTES >> 20} MiB: it is no list of '
                'captions'
            )
        content = self._file.read(min(size, CHUNK) if size >= 0 else CHUNK)
        self._left -= len(content)
        return content


def items_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields (name, item) of each item of the arrays within a JSON's object; name '' for an array.

    Raises:
      UserError: not JSON, not UTF-8, too deep, or with an item that is too large.
      OSError: a file that cannot be read.
    """
    import ijson

    check_regular(path)
    check_encoding(path)
    with path.open('rb') as file:
        bounded = BoundedFile(file, path)
        try:
            yield from built(ijson.basic_parse(bounded, use_float=True, buf_size=CHUNK), bounded)
        except UserError:
            raise
        except (ijson.JSONError, ValueError) as error:
            why = ' '.join(str(error).split())[:100]
            raise UserError(f'{path} is not valid JSON in UTF-8: {why}') from error


def built(events: Iterator[tuple[str, Any]], bounded: BoundedFile) -> Iterator[tuple[str, Any]]:
    """Builds items from the events of a parser; see `items_of`.

    Raises:
      ValueError: nested too deeply.
    """
    from ijson.common import ObjectBuilder

    name, listed, builder = '', False, None
    depth = level = 0  # open arrays and objects: before this event, and where items are
    for event, value in events:
        starts, ends = event.startswith('start'), event.startswith('end')
        depth -= ends
        if depth > MAX_DEPTH:
            raise ValueError('it is nested too deeply')
        if depth == 0:
            level, listed = (1, True) if event == 'start_array' else (2, False)
        elif depth == 1 and level == 2:
            name = value if event == 'map_key' else name
            listed = event == 'start_array'
            bounded.start_item()
        elif listed:
            builder = builder or ObjectBuilder()
            builder.event(event, value)
            if depth == level and not starts:
                yield name, builder.value
                builder = None
                bounded.start_item()
        depth += starts


def kind_of(path: Path) -> str:
    """'coco', 'karpathy' or 'list'.

    Raises:
      UserError: another JSON; see `items_of`.
    """
    names: dict[str, None] = {}
    for name, item in items_of(path):
        if not name:
            return 'list'
        if name == 'images' and isinstance(item, dict) and 'sentences' in item:
            return 'karpathy'
        names[name] = None
        if names.keys() >= {'images', 'annotations'}:
            return 'coco'
    raise UserError(
        f'{path} is neither COCO captions (images, annotations) nor a list of objects; its lists '
        f'are {", ".join(map(repr, names)) or "none"}'
    )


def karpathy_rows(path: Path) -> Iterator[Row]:
    """A row for each image, with all its captions; those outside of TRAIN_SPLITS have a defect."""
    for name, item in items_of(path):
        if name != 'images':
            continue
        if not isinstance(item, dict) or not isinstance(item.get('sentences'), list):
            yield Row(defect='broken_row')
            continue
        raws = [s.get('raw') if isinstance(s, dict) else s for s in item['sentences']]
        file, folder = item.get('filename'), item.get('filepath')
        if isinstance(file, str) and isinstance(folder, str) and folder:
            file = f'{folder}/{file}'
        row = row_of(file, raws)
        if item.get('split', 'train') not in TRAIN_SPLITS:
            row = Row(row.image, defect='other_split')
        yield row


def coco_rows(path: Path) -> Iterator[Row]:
    """A row for each image and each caption; those of one id are one image."""
    for name, item in items_of(path):
        if name not in ('images', 'annotations'):
            continue
        image = name == 'images'
        number = item.get('id' if image else 'image_id') if isinstance(item, dict) else None
        if not isinstance(number, int | str):
            yield Row(defect='broken_row')
            continue
        row = row_of(item.get('file_name'), None) if image else row_of(None, item.get('caption'))
        yield row if row.defect else row._replace(identity=f'{type(number).__name__} {number}')


def list_objects(path: Path) -> Iterator[dict[str, Any] | str]:
    """The objects of a JSON's list; 'broken_row' for an item that is none."""
    return (item if isinstance(item, dict) else 'broken_row' for _, item in items_of(path))
