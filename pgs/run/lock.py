"""One run a workdir: a lock file that names the process that holds it.

Every change of the file is conditional on the version that was read, so that of two processes
only one gets the lock. TensorStore does this on local disks and network mounts (a lock of the
operating system and a rename) and on gs:// and s3:// (a precondition on the object's generation).
Other addresses are not locked.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore as ts
from etils import epath

from pgs.errors import UserError
from pgs.utils import distributed
from pgs.utils.files import writing

NAME = 'lock.json'
BEAT_SECONDS = 10.0  # between two heartbeats of the holder
DEAD_SECONDS = 60.0  # a holder on another machine that is silent for this long counts as dead
POLL_SECONDS = 1.0


class Lock:
    """The lock of a workdir, released by default.

    Attributes:
      taken_by: description of the process that took the lock away; '' while nobody did.
    """

    def __init__(self, workdir: epath.Path):
        self._workdir = workdir
        self._generation = b''  # of the file as this process wrote it; b'' without the lock
        self._content: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.taken_by = ''

    def acquire(self) -> None:
        """Gets the lock, from a dead holder as well, and starts the heartbeat.

        Waits up to DEAD_SECONDS to see whether a holder on another machine is alive.

        Raises:
          UserError: a running process holds it, or a folder that cannot be written.
        """
        with writing(f'--workdir={self._workdir}', 'make the path writable or give another one'):
            if '://' not in os.fspath(self._workdir):  # buckets have no folders
                self._workdir.mkdir(parents=True, exist_ok=True)
            store = open_store(self._workdir)
        if store is None:
            return
        self._store = store
        try:
            self._acquire()
        except (ValueError, OSError) as error:  # TensorStore raises ValueError
            raise UserError(
                f'cannot lock {self._workdir / NAME} ({str(error).splitlines()[0]}): make the '
                'path writable or give another --workdir'
            ) from error
        self._thread = threading.Thread(target=self._beat, name='lock heartbeat', daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        self._content = myself()
        first_seen, start = b'', time.monotonic()
        while True:
            now = self._store.read(NAME).result()
            holder = parse(now.value)
            dead = now.state == 'missing' or is_dead(holder)
            if dead is None:  # it runs on another machine, or the file is damaged
                if not first_seen:
                    first_seen = now.stamp.generation
                    distributed.print_once(
                        f'{self._workdir} is locked by {describe(holder)}: waiting up to '
                        f'{DEAD_SECONDS:.0f} s to see whether it is alive'
                    )
                beats = now.stamp.generation != first_seen
                dead = not beats and time.monotonic() - start > DEAD_SECONDS
                if not dead and not beats:
                    time.sleep(POLL_SECONDS)
                    continue
            if not dead:
                raise UserError(
                    f'{self._workdir} is in use by {describe(holder)}: stop that run or wait for '
                    'its end, or give another --workdir'
                )
            if self._write(now.stamp.generation):
                if now.state != 'missing':
                    distributed.print_once(f'Took over the lock of {describe(holder)}: it is dead')
                return

    def _write(self, expected: bytes) -> bool:
        """Replaces the file if it is still the version `expected`; returns whether it was."""
        content = json.dumps(self._content, indent=2) + '\n'
        generation = self._store.write(NAME, content.encode(), if_equal=expected).result()
        if generation.generation:
            self._generation = generation.generation
        return bool(generation.generation)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._content['beat'] += 1
            with contextlib.suppress(ValueError, OSError):  # a full disk; the next one may succeed
                if not self._write(self._generation):
                    self.taken_by = describe(parse(self._store.read(NAME).result().value))
                    return

    def check(self) -> None:
        """Raises UserError if another process took the lock, because this one seemed dead."""
        if self.taken_by:
            raise UserError(
                f'the lock of {self._workdir} was taken by {self.taken_by}: this process did not '
                'answer for too long; nothing more is written here'
            )

    def release(self) -> None:
        """Removes the file, if this process still holds the lock."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(ValueError, OSError):  # else the next run sees a dead process
            self._store.write(NAME, None, if_equal=self._generation).result()


@contextlib.contextmanager
def hold(workdir: epath.Path) -> Iterator[Lock]:
    """Holds a workdir's lock within the block; of several processes, the primary holds it."""
    lock = Lock(workdir)
    distributed.on_primary(lock.acquire)
    try:
        yield lock
    finally:
        lock.release()


def open_store(workdir: epath.Path) -> Any:
    """TensorStore's key-value store of a folder; None for addresses that it does not know."""
    address = os.fspath(workdir)
    scheme = address.split('://')[0] if '://' in address else ''
    if scheme not in ('', 'gs', 's3'):
        return None
    spec = f'{address}/' if scheme else {'driver': 'file', 'path': f'{address}/'}
    return ts.KvStore.open(spec).result()


def myself() -> dict[str, Any]:
    """What the lock file says about this process."""
    return {
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'since': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'started': start_time(os.getpid()),
        'machine': machine(),
        'beat': 0,
    }


def parse(content: bytes) -> dict[str, Any]:
    """The content of a lock file; {} of a damaged one."""
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def describe(holder: dict[str, Any]) -> str:
    """A holder in words, for messages."""
    if 'pid' not in holder:
        return 'an unknown process'
    return f'process {holder["pid"]} on {holder.get("host")} (since {holder.get("since")})'


def is_dead(holder: dict[str, Any]) -> bool | None:
    """Whether the holder has ended; None if that cannot be seen from this machine."""
    pid = holder.get('pid')
    if holder.get('machine') != machine() or not isinstance(pid, int) or pid < 1:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    now = start_time(pid)
    return now == 'zombie' or now != holder.get('started')  # its number was given to another one


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; 'zombie' for an ended one, '' if unknown."""
    try:
        # The name, in parentheses, may hold spaces: proc(5) numbers the fields after it from 3.
        state, *fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    except (OSError, IndexError):
        return ''  # no /proc on this system
    return 'zombie' if state == 'Z' else fields[18]


def machine() -> str:
    """Identifies where a process number is valid: a host since its last boot, and a container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink('/proc/self/ns/pid'))
    return ' '.join(parts)
