"""Finds and reads the image files that a table or a JSON names, within one folder."""

import contextlib
import errno
import os
import re
import stat
import urllib.parse
from collections.abc import Iterator

from input_pipeline.tars import MAX_FILE_BYTES
from input_pipeline.validate import DropError

MAX_TEXT_BYTES = 2**20  # of a file with captions
DRIVE = re.compile(r'[A-Za-z]:(?=[\\/])')  # of a Windows path
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def is_url(name: str) -> bool:
    """Whether an image is named by an address on the web."""
    return '://' in name[:10] and not name.startswith('file://')


def is_absolute(name: str) -> bool:
    """Whether a path begins at a root, here or on another machine."""
    return name.startswith(('/', '\\', 'file://')) or bool(DRIVE.match(name))


class ImageFiles:
    """The files of a folder; nothing outside of it is opened.

    Attributes:
      folder: its path.
      reroot: find a path, also an absolute one or a URL, by the longest part of its end that exists
        in the folder: /elsewhere/train/x.jpg as train/x.jpg or x.jpg.
    """

    def __init__(self, folder: str, *, reroot: bool = False):
        self.folder, self.reroot = folder, reroot
        self._real = os.path.realpath(folder)

    def find(self, name: str) -> str:
        """The path of the file.

        Raises:
          DropError: a URL, a path that leaves the folder, no such file, or no plain file.
          OSError: a folder that may not be searched.
        """
        for parts in self._candidates(name):
            path = os.path.join(self.folder, *parts)
            try:
                mode = os.stat(path).st_mode
            except ValueError as error:  # a zero byte
                raise DropError('unsafe_name') from error
            except OSError as error:
                if error.errno in ABSENT:
                    continue
                raise
            if os.path.commonpath((os.path.realpath(path), self._real)) != self._real:
                raise DropError('unsafe_name')
            if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
                raise DropError('not_a_file')
            return path
        raise DropError('no_image')

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
          DropError: see `find`; a file that is too large.
          OSError: a file that may not be read.
        """
        path = self.find(name)
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise DropError('image_too_large')
        with open(path, 'rb') as file:
            return file.read()

    def read_captions(self, name: str) -> tuple[bytes, ...]:
        """The lines of a text file that are not blank; one blank line for a file without others.

        Raises:
          DropError: see `find`; a file that is too large.
        """
        with open(self.find(name), 'rb') as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise DropError('caption_too_long')
        return tuple(line for line in content.splitlines() if line.strip()) or (b'',)

    def _candidates(self, name: str) -> Iterator[tuple[str, ...]]:
        """Paths below the folder, as their parts, in the order in which they are tried."""
        if is_url(name):
            if not self.reroot:
                raise DropError('image_is_url')
            with contextlib.suppress(ValueError):  # not a valid address
                name = urllib.parse.unquote(urllib.parse.urlsplit(name).path)
        elif not is_absolute(name) and not (self.reroot and '..' in name):
            yield parts_of(name)  # a backslash may be part of a name
        absolute = is_absolute(name)
        name = DRIVE.sub('', name.removeprefix('file://')).replace('\\', '/')
        inside = f'{self.folder}/'
        if absolute and name.startswith(inside):
            yield parts_of(name.removeprefix(inside))
        elif self.reroot:
            parts = name.split('/')
            if '..' in parts:
                parts = parts[len(parts) - parts[::-1].index('..') :]
            parts = [part for part in parts if part not in ('', '.')]
            yield from (tuple(parts[start:]) for start in range(len(parts)))
        elif absolute:
            raise DropError('unsafe_name')
        else:
            yield parts_of(name)


def parts_of(path: str) -> tuple[str, ...]:
    """The parts of a relative path.

    Raises:
      DropError: it leaves its folder.
    """
    parts = tuple(part for part in path.split('/') if part not in ('', '.'))
    if '..' in parts:
        raise DropError('unsafe_name')
    return parts
