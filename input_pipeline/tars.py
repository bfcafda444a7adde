"""Reading a tar member by member, with constant memory and without writing to disk.

The sizes that a tar claims are compared with the file before anything is read or skipped.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pgs.utils.files import check_regular

MAX_HEADER_BYTES = 16_384  # of a member's header with its extensions, such as long names
MAX_FILE_BYTES = 256 * 1024**2  # of one file; bounds the memory of a reader
BUFFER_BYTES = 2**18
SHOWN = 200  # characters of a name in a message


class LimitedFile:
    """A file, as tarfile needs one, that gives at most `left` more bytes; None: no limit.

    tarfile reads as much as a header claims, up to 2^63 bytes.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.left: int | None = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes.

        Raises:
          tarfile.ReadError: more than what is left.
        """
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise tarfile.ReadError(f'a header of more than {MAX_HEADER_BYTES} bytes')
            self.left -= size
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def stream(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields (archive, member), for `content`; keeps no headers, which tarfile would collect.

    Raises:
      tarfile.TarError: a damaged tar, or one without its end mark, after its intact members.
      OSError: a file that cannot be read, or that is none, such as a pipe.
    """
    check_regular(path)
    with path.open('rb', buffering=BUFFER_BYTES) as file:
        size = os.fstat(file.fileno()).st_size
        limited = LimitedFile(file)
        archive = None
        while True:
            limited.left = MAX_HEADER_BYTES
            try:
                if archive is None:
                    archive = tarfile.open(fileobj=limited, mode='r:')  # type: ignore[call-overload]  # noqa: SIM115
                member = archive.next()
            except (tarfile.TarError, OSError):
                raise
            except Exception as error:  # a damaged header raises many types of errors
                raise tarfile.ReadError(f'damaged header ({error})') from error
            if member is None:
                break
            archive.members.clear()
            limited.left = None
            # A size below 0 would lead back to a header that was read before.
            if member.size < 0 or archive.offset < member.offset_data:
                raise tarfile.ReadError(f'{member.name[:SHOWN]!r} has a negative size')
            yield archive, member
            if archive.offset > size:
                raise tarfile.ReadError(f'it ends within {member.name[:SHOWN]!r}')
        # tarfile mistakes a cut between two members, or a damaged header, for the end of the tar.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError('the end mark is missing')


def is_file(member: tarfile.TarInfo) -> bool:
    """Whether it is a plain file; sparse ones claim more bytes than they hold."""
    return member.isreg() and not member.issparse()


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a plain file, before the next member is requested.

    Raises:
      tarfile.ReadError: a tar that ends within it.
    """
    file = archive.fileobj
    assert file is not None
    file.seek(member.offset_data)
    read = file.read(member.size)
    if len(read) != member.size:
        raise tarfile.ReadError(f'it ends within {member.name[:SHOWN]!r}')
    return read
