"""Lines of a text file, read with a bound, whatever its size and encoding."""

import codecs
from pathlib import Path
from typing import BinaryIO

from pgs.errors import UserError

MAX_ROW_BYTES = 2**20  # of a row, which may be several lines
OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's begins with the first of them


class RowTooLongError(Exception):
    """A row of more than MAX_ROW_BYTES; reading goes on behind the line in which it became so."""


class Lines:
    """An iterator over the lines of a file, as text for the module csv or as bytes.

    Bytes that are not UTF-8 become surrogates in text. `start_row` is to be called before each row.

    Raises:
      RowTooLongError: by `__next__`; the next call gives the line behind.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._row_bytes = file, 0
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)

    def start_row(self) -> None:
        self._row_bytes = 0

    def next_bytes(self) -> bytes:
        """The next line with its end.

        Raises:
          StopIteration: there is none.
        """
        line = self._file.readline(MAX_ROW_BYTES)
        if not line:
            raise StopIteration
        self._row_bytes += len(line)
        if self._row_bytes < MAX_ROW_BYTES or (
            self._row_bytes == MAX_ROW_BYTES and line.endswith(b'\n')
        ):
            return line
        while line and not line.endswith(b'\n'):
            line = self._file.readline(MAX_ROW_BYTES)
        raise RowTooLongError

    def __iter__(self) -> 'Lines':
        return self

    def __next__(self) -> str:
        return self.next_bytes().decode('utf-8', 'surrogateescape')


def check_encoding(path: Path) -> None:
    """Refuses files that by their first bytes are another kind of Unicode.

    Raises:
      UserError: UTF-16 or UTF-32.
      OSError: a file that cannot be read.
    """
    with path.open('rb') as file:
        if file.read(2) in OTHER_MARKS:
            raise UserError(f'{path} is UTF-16: save it as UTF-8')


def is_utf8(text: str) -> bool:
    """Whether text holds no surrogate: these stand for bytes that are not UTF-8, also in tarfile's names."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
