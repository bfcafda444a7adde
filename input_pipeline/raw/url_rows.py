"""Raw samples of a TSV without a header, of URLs and captions, beside a folder of downloaded images.

This is how CC12M is published; img2dataset names the images by the numbers of the rows.
"""

import itertools
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from input_pipeline.images import IMAGE_SUFFIXES
from input_pipeline.raw.lines import MAX_ROW_BYTES
from input_pipeline.raw.samples import LARGEST_SHARD, RawSample, Seen, Shard
from input_pipeline.tars import MAX_FILE_BYTES
from input_pipeline.validate import DropError
from pgs.errors import UserError
from pgs.utils.files import check_regular


def rows_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields (row, length) of each line of a TSV; of a longer row only MAX_ROW_BYTES."""
    while row := file.readline(MAX_ROW_BYTES):
        length, piece = len(row), row
        while len(piece) == MAX_ROW_BYTES and not piece.endswith(b'\n'):
            piece = file.readline(MAX_ROW_BYTES)
            length += len(piece)
        yield row, length


def tsv_shards(path: Path, *, header: bool = False) -> list[Shard]:
    """Divides a TSV of (caption, url) or (url, caption) rows into shards, in one pass over it.

    Args:
      path: of the TSV.
      header: its first line names the columns; it is left out and has no number.

    Raises:
      UserError: no rows.
      OSError: a file that cannot be read.
    """
    check_regular(path)
    shards: list[Shard] = []
    offset = 0
    with path.open('rb') as file:
        rows = rows_of(file)
        if header:
            offset = next(rows, (b'', 0))[1]
        for row, (_, length) in enumerate(rows):
            if row % LARGEST_SHARD == 0:
                shards.append(Shard(str(path), offset, row, 0))
            shards[-1] = shards[-1]._replace(rows=shards[-1].rows + 1)
            offset += length
    if not shards:
        raise UserError(f'--source={path} has no rows: each is a URL, a tab and a caption')
    return shards


class ImageFolder:
    """Finds the image of a TSV's row, by the row's number or by the file name in its URL.

    Row 12 is 000000012.jpg, as img2dataset names files. The URL's file name is used if there is no
    such file, for a folder of downloads that kept their names.
    """

    def __init__(self, folder: str):
        self._by_name: dict[str, Path] = {}
        for path in sorted(Path(folder).rglob('*')):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_name.setdefault(path.name, path)
                self._by_name.setdefault(path.stem, path)

    def read(self, row: int, url: str) -> bytes | None:
        """The bytes of a row's image; None if the folder does not have it.

        Raises:
          DropError: a file that is too large.
        """
        path = self._by_name.get(f'{row:09}') or self._by_name.get(file_name(url))
        if path is None or path.is_symlink():
            return None
        if not path.is_file():  # opening a pipe would wait for ever
            raise DropError('not_a_file')
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DropError('image_too_large')
        return path.read_bytes()


def file_name(url: str) -> str:
    """The last part of a URL's path; '' for a text that is no URL."""
    try:
        path = urllib.parse.urlsplit(url).path
    except ValueError:
        return ''
    return urllib.parse.unquote(PurePosixPath(path).name)


def tsv_samples(shard: Shard, images: ImageFolder, seen: Seen | None = None) -> Iterator[RawSample]:
    """Streams the rows of a shard of a TSV; the column with '://' near its start is the URL.

    Args:
      shard: what to read.
      images: the folder beside the TSV.
      seen: counts all rows, whatever becomes of them.
    """
    seen = seen or Seen()
    with open(shard.path, 'rb') as file:
        file.seek(shard.offset)
        rows = itertools.islice(rows_of(file), shard.rows)
        for row, (line, length) in enumerate(rows, shard.first_row):
            seen.add_row()
            yield row_sample(row, line, length, images)


def row_sample(row: int, line: bytes, length: int, images: ImageFolder) -> RawSample:
    """The sample of a row of a TSV.

    Args:
      row: counted from 0.
      line: the row, or its first MAX_ROW_BYTES.
      length: of the complete row.
      images: the folder beside the TSV.
    """
    key = f'{row:09}'
    if length > MAX_ROW_BYTES:
        return RawSample(key, defect='caption_too_long', members=1)
    columns = line.rstrip(b'\r\n').split(b'\t')
    urls = [c for c in columns if b'://' in c[:10]]
    captions = [c for c in columns if b'://' not in c[:10]]
    url = urls[0].decode('utf-8', 'replace') if urls else ''
    try:
        image = images.read(row, url)
    except DropError as drop:
        return RawSample(key, defect=drop.args[0], members=1)
    return RawSample(key, image, tuple(captions[:1]), members=1, group=url or None)
