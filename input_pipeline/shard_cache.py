"""Whole copies of shards on the local disk: fetched ahead of time, and deleted when they are done."""

import errno
import os
import random
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from array_record.python import array_record_module

from input_pipeline import buckets
from pgs.errors import UserError
from pgs.utils.files import reason
from pgs.utils.own_folder import OwnFolder

FETCHERS = 4  # shards that are fetched at once; TensorFlow holds 64 MiB of each
PIECE = 2**23  # bytes that are written at once
ATTEMPTS = 5  # each of them repeats a request ten times
FIRST_DELAY, LONGEST_DELAY = 2.0, 60.0  # seconds between two attempts; they double


class ShardCache:
    """Copies of the shards that are needed now or soon, read by several threads.

    Nothing is written before the first shard is asked for.

    Args:
      parent: folder of the caches of all processes on this machine.
      records: {path or address of a shard: number of its records}.
      kept: shards that stay once they were read, such as those of held-out pairs.
    """

    def __init__(self, parent: Path, records: Mapping[str, int], kept: Collection[str] = ()):
        self._parent, self._records, self._kept = parent, dict(records), frozenset(kept)
        self._numbers = {file: number for number, file in enumerate(self._records)}
        self._changed = threading.Condition()
        self._wanted: list[str] = []  # the most urgent first
        self._awaited: list[str] = []  # one entry for each thread that waits for a shard
        self._busy: set[str] = set()
        self._readers: dict[str, array_record_module.ArrayRecordReader] = {}
        self._errors: dict[str, UserError] = {}
        self._closed = threading.Event()
        self._folder: OwnFolder | None = None

    def want(self, files: Sequence[str]) -> None:
        """Fetches these shards in the background, the first ones first, and deletes all others."""
        with self._changed:
            spared = {*files, *self._awaited, *self._kept}
            before = [f for f in self._wanted if f in self._awaited or f in self._kept]
            self._wanted = list(dict.fromkeys([*self._awaited, *before, *files]))
            for file in [f for f in self._readers if f not in spared]:
                del self._readers[file]
                self._path(file).unlink(missing_ok=True)
            self._start()
            self._changed.notify_all()

    def reader(self, file: str) -> array_record_module.ArrayRecordReader:
        """A reader of the copy of a shard; waits for it if necessary.

        Raises:
          UserError: a shard that cannot be fetched, or a cache that is closed.
        """
        with self._changed:
            if file in self._readers:
                return self._readers[file]
            self._errors.pop(file, None)  # of an attempt ahead of time; there is another one now
            self._awaited.append(file)
            self._wanted = list(dict.fromkeys([file, *self._wanted]))
            try:
                self._start()
                self._changed.notify_all()
                while file not in self._readers:
                    if self._closed.is_set():
                        raise UserError(f'{file} is not read: the reading has ended')
                    if file in self._errors:
                        raise self._errors[file]
                    self._changed.wait()
                return self._readers[file]
            finally:
                self._awaited.remove(file)

    def close(self) -> None:
        """Deletes everything; a fetch that still goes on has no effect."""
        with self._changed:
            self._closed.set()
            self._readers.clear()
            if self._folder is not None:
                self._folder.close()
            self._changed.notify_all()

    def _start(self) -> None:
        """Makes the folder and starts the fetchers, once; to be called with the condition."""
        if self._folder is not None or self._closed.is_set():
            return
        try:
            self._folder = OwnFolder(self._parent)
        except OSError as error:
            raise UserError(
                f'cannot write config.data.window_cache={str(self._parent)!r} ({reason(error)}): '
                'give a writable folder'
            ) from error
        for number in range(FETCHERS):
            threading.Thread(target=self._work, name=f'fetch {number}', daemon=True).start()

    def _path(self, file: str) -> Path:
        assert self._folder is not None
        return self._folder.path / f'{self._numbers[file]:05}-{file.rsplit("/", 1)[-1]}'

    def _next(self) -> str | None:
        done = (self._readers, self._busy, self._errors)
        return next((f for f in self._wanted if not any(f in files for files in done)), None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed.is_set() or self._next() is not None)
                file = self._next()
                if self._closed.is_set() or file is None:
                    return
                self._busy.add(file)
                path = self._path(file)
            result: array_record_module.ArrayRecordReader | UserError
            try:
                fetch(file, path, self._closed)
                result = opened(file, path, self._records[file])
            except UserError as error:
                result = error
            with self._changed:
                self._busy.discard(file)
                if self._closed.is_set():
                    return
                if isinstance(result, UserError):
                    self._errors[file] = result
                elif file in self._wanted:
                    self._readers[file] = result
                else:
                    path.unlink(missing_ok=True)
                self._changed.notify_all()


def fetch(file: str, path: Path, ended: threading.Event) -> None:
    """Copies a shard, and tries again after an error that may pass.

    Args:
      file: path or address.
      path: of the copy; it appears when it is complete.
      ended: no further attempt is made once it is set.

    Raises:
      UserError: an error that stays, by its cause.
    """
    for attempt in range(ATTEMPTS):
        try:
            return copy(file, path)
        except (tf.errors.OpError, OSError) as error:
            path.with_name(f'{path.name}.partial').unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise UserError(
                    f'the disk of {path.parent} is full: free space, lower '
                    'config.data.window_shards, or give another config.data.window_cache'
                ) from error
            stays = isinstance(error, buckets.DENIED + buckets.ABSENT)
            if stays or attempt == ATTEMPTS - 1 or ended.is_set():
                raise UserError(f'cannot read {file}: {buckets.explain(error)}') from error
            delay = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY) * random.uniform(0.5, 1.0)
            words = reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
            print(f'warning: {file}: {words}; again in {delay:.0f} s', flush=True)
            ended.wait(delay)


def copy(file: str, path: Path) -> None:
    """Copies a file, under a temporary name until it has the size of the original.

    Raises:
      tf.errors.OpError, OSError: a file that cannot be read or written.
    """
    size = tf.io.gfile.stat(file).length
    partial = path.with_name(f'{path.name}.partial')
    with tf.io.gfile.GFile(file, 'rb') as reader, open(partial, 'wb') as writer:
        while piece := reader.read(PIECE):
            writer.write(piece)
        written = writer.tell()
    if written != size:
        raise OSError(errno.EIO, f'{written} of its {size} bytes were read')
    os.replace(partial, path)


def opened(file: str, path: Path, records: int) -> array_record_module.ArrayRecordReader:
    """A reader of a copy, whose number of records is checked.

    Raises:
      UserError: no ArrayRecord file, or one with another number of records.
    """
    try:
        reader = array_record_module.ArrayRecordReader(
            str(path), options='readahead_buffer_size:0', file_reader_buffer_size=32768
        )
        found = reader.num_records()
    except Exception as error:  # the type depends on how the C++ reader meets the damage
        raise UserError(f'{file} is damaged ({error}): prepare that shard again') from error
    if found != records:
        raise UserError(
            f'{file} holds {found} records, but its data set says {records}: prepare it again'
        )
    return reader
