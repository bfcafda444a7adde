"""Files that are written completely or not at all, on local disks and on gs://."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from pgs.errors import UserError


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


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Replaces a file by JSON."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + '\n').encode())


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
