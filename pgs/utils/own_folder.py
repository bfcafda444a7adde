"""A folder for the temporary files of one process, which is deleted in any case.

The process holds a lock file beside it. The operating system frees the lock of a process that was
killed; the next process that makes a folder there deletes what a free lock belongs to.
"""

import fcntl
import os
import secrets
import shutil
import weakref
from pathlib import Path


class OwnFolder:
    """A folder that no other process uses; deleted by close(), or at the end of the process.

    Attributes:
      path: of the folder, below `parent`.
    """

    def __init__(self, parent: Path):
        """Makes the folder, and deletes those of processes that are gone.

        Raises:
          OSError: a folder that cannot be written.
        """
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        while True:
            self.path = parent / f'{os.getpid()}-{secrets.token_hex(4)}'
            lock = lock_path(self.path)
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
            # Between these lines another process may find it unlocked, and delete it.
            if is_locked(descriptor) and lock.exists():
                break
            os.close(descriptor)
        self.path.mkdir()
        self.close = weakref.finalize(self, remove, self.path, descriptor)


def lock_path(folder: Path) -> Path:
    """The lock file of a folder."""
    return folder.with_name(f'{folder.name}.lock')


def is_locked(descriptor: int) -> bool:
    """Locks an open file, unless another process holds its lock; whether it is locked now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def remove_leftovers(parent: Path) -> None:
    """Deletes the folders of processes that no longer run; no-op without such a folder.

    Raises:
      OSError: a lock file that cannot be opened.
    """
    for lock in parent.glob('*.lock'):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:  # another process was faster
            continue
        if is_locked(descriptor):
            folder = lock.with_suffix('')
            if folder.exists():
                print(f'Deletes {folder}, which a process that was killed has left', flush=True)
            remove(folder, descriptor)
        else:
            os.close(descriptor)


def remove(folder: Path, descriptor: int) -> None:
    """Deletes a folder and its lock file, and frees the lock."""
    shutil.rmtree(folder, ignore_errors=True)
    lock_path(folder).unlink(missing_ok=True)
    os.close(descriptor)
