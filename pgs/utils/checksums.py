"""Sizes and CRC-32 checksums of the files of a folder, stored in one JSON file within it."""

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from pgs.errors import UserError
from pgs.utils.files import reason, write_json

NAME = 'checksums.json'
FORMAT = 1
CHUNK = 1 << 24  # bytes read at once
THREADS = 4  # files read at once; zlib and the file system release the interpreter's lock


def write_checksums(folder: epath.Path) -> None:
    """Writes NAME into a folder whose other files are complete.

    The files are read back: the sums describe what a reader will get.
    """
    files = sorted(path for path in files_in(folder) if path.name != NAME)
    with ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(of_file, files))
    names = [p.relative_to(folder).as_posix() for p in files]
    content = {'format': FORMAT, 'files': dict(zip(names, sums, strict=True))}
    write_json(folder / NAME, content)


def find_damage(folder: epath.Path) -> str | None:
    """Compares a folder's files with its NAME.

    Files that NAME does not list are ignored.

    Returns:
      What is wrong with the first damaged file, None if all are as they were written.

    Raises:
      UserError: a NAME of a newer format.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        listed, version = dict(content['files']), int(content['format'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = reason(error) if isinstance(error, OSError) else repr(error)
        return f'{NAME} cannot be read ({cause})'
    if version > FORMAT:
        raise UserError(
            f'{folder / NAME} has format {version}, this program reads up to {FORMAT}: '
            'use the version of the program that wrote it, or a newer one'
        )

    def damage_of(name: str) -> str | None:
        try:
            found = of_file(folder / name)
        except OSError as error:
            return f'{name} cannot be read ({reason(error)})'
        expected = listed[name]
        if found == expected:
            return None
        if isinstance(expected, dict) and found['bytes'] != expected.get('bytes'):
            return f'{name} has {found["bytes"]} bytes, not {expected.get("bytes")}'
        return f'the checksum of {name} differs'

    with ThreadPoolExecutor(THREADS) as pool:
        return next((d for d in pool.map(damage_of, listed) if d), None)


def files_in(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder; epath has no rglob."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from files_in(path)
        else:
            yield path


def of_file(path: epath.Path) -> dict[str, Any]:
    """{'bytes': size, 'crc32': eight hexadecimal digits}."""
    size = crc = 0
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return {'bytes': size, 'crc32': f'{crc:08x}'}
