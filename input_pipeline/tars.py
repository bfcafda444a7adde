"""Reading a tar member by member, with constant memory and without writing to disk."""

import tarfile
from collections.abc import Iterator
from pathlib import Path


def iter_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar; keeps no headers, which tarfile would collect in a list."""
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # missing in the type stubs
        yield member


def stream(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields (archive, member); the content must be read before the next member is requested.

    Raises:
      tarfile.TarError: a damaged tar, or one without its end mark.
      OSError: a file that cannot be read.
    """
    with path.open('rb') as file, tarfile.open(fileobj=file, mode='r|') as archive:
        for member in iter_members(archive):
            yield archive, member
        # tarfile mistakes a cut between two members, or a damaged header, for the end of the tar.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError('the end mark is missing')
