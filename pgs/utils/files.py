"""Files that are written completely or not at all, on local disks and on gs://."""

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from pgs.errors import UserError

MAX_SMALL_BYTES = 2**28  # of a file that is read as a whole


def absolute(path: str | os.PathLike) -> epath.Path:
    """The full path of a file or folder; gs:// and other addresses are absolute already."""
    full = epath.Path(path).expanduser()
    return full if '://' in os.fspath(full) else epath.Path(os.path.abspath(full))


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    A reader sees either the old content or the new one, never a part of it.
    """
    target = epath.Path(path)
    partial = target.with_name(f'{target.name}.partial')
    with partial.open('wb') as file:
        yield file
    partial.replace(target)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Replaces a file; creates its folder."""
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Replaces a file by JSON."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + '\n').encode())


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number; whole ones may be too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def check_regular(path: str | os.PathLike) -> None:
    """Checks before it is opened that a local path is a file; opening a pipe would wait for ever.

    Raises:
      OSError: a pipe, a device, a folder or a socket, or a path that cannot be looked up.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: 'named pipe', stat.S_IFDIR: 'folder', stat.S_IFSOCK: 'socket'}
        kind = kinds.get(stat.S_IFMT(mode), 'device')
        raise OSError(errno.EINVAL, f'it is a {kind}, not a file', os.fspath(path))


def read_small(path: str | os.PathLike) -> bytes:
    """The content of a file that is read as a whole.

    Raises:
      OSError: a file that cannot be read, or a pipe.
      ValueError: a file of more than MAX_SMALL_BYTES.
    """
    file = epath.Path(path)
    if '://' not in os.fspath(file):
        check_regular(file)
    if file.stat().length > MAX_SMALL_BYTES:
        raise ValueError(f'it is larger than {MAX_SMALL_BYTES >> 20} MiB')
    return file.read_bytes()


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
      OSError, ValueError: see `read_small` and `parse_json`.
    """
    return parse_json(read_small(path))


def parse_json(encoded: bytes) -> Any:
    """The content of JSON text.

    Raises:
      ValueError: not UTF-8, not JSON, nested too deeply, or with half a surrogate pair.
    """
    try:
        text = encoded.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f'it is not UTF-8 at byte {error.start}') from error
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error
    if '\\ud' in text.lower():  # half a surrogate pair can be neither printed nor written
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError('it holds half a surrogate pair') from error
    return content


def reason(error: OSError) -> str:
    """Why the operating system refused, in a few words."""
    return error.strerror or (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def writing(target: str, remedy: str = 'give another path') -> Iterator[None]:
    """Turns an OSError within the block into a UserError.

    Args:
      target: what is written, as the user named it, such as '--out=results.json'.
      remedy: what to do about it.

    Raises:
      UserError: 'cannot write TARGET (REASON): REMEDY'.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot write {target} ({reason(error)}): {remedy}') from error
