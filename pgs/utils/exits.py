"""How a program ends: signals from the first import on, and a limit on the time it takes to end.

A signal (Ctrl-C, a scheduler's SIGTERM) raises `Stopped` in the main thread, which closes what is
open; the train loop replaces that by a stop after the running step (pgs/run/interrupt.py). Python
runs a handler only when the main thread is back from a call into C++ code, such as a compilation or
a blocked read. So a second thread hears of signals too, and ends the process where the main thread
does not: after the patience of the current phase (pgs/utils/phases.py).

The interpreter's own clean-up is skipped: it destroys what is still alive when threads can no
longer run, and TensorFlow's iterators wait for their threads.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Protocol, TypeVar

from pgs.errors import Stopped
from pgs.utils import phases


class Closable(Protocol):
    """What has a function close()."""

    def close(self) -> None: ...


T = TypeVar('T', bound=Closable)

STOPPED = 130  # exit status of a run that stops and can be resumed
LIMIT = 5.0  # seconds from the last line to the end
LIMIT_OF_SEVERAL = 60.0  # several processes wait for each other, so that none sees another one die

_signals: list[tuple[float, str]] = []  # time of each signal, and the line of a stop at that time
_ending: list[float] = []  # time at which the program's main function ended
_status = 0
_limit_seconds = LIMIT
_leaving = threading.Lock()


def install() -> None:
    """Sets the signal handlers and the limit; called by main.py before its other imports."""
    atexit.register(_last)  # registered first, so called last
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader,), name='signals', daemon=True).start()
    threading.Thread(target=_limit, name='exit limit', daemon=True).start()


def hand_over() -> None:
    """Leaves stopping to JAX's preemption service, by which several processes agree on a step.

    The service listens for SIGTERM; Ctrl-C is passed on to it.
    """
    global _limit_seconds
    _limit_seconds = LIMIT_OF_SEVERAL
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def set_status(code: object) -> None:
    """Records the exit status, as sys.exit takes it, of a program that is about to end."""
    global _status
    _status = 0 if code is None else code if isinstance(code, int) else 1
    _ending.append(time.monotonic())


@contextlib.contextmanager
def closed(resource: T) -> Iterator[T]:
    """Calls resource.close() at the end; its error does not replace one that ended the block."""
    try:
        yield resource
    except BaseException:
        with contextlib.suppress(Exception):
            resource.close()
        raise
    resource.close()


def leave(status: int, line: str) -> None:
    """Prints a last line and ends the process at once. Files that must be complete are atomic."""
    with _leaving:  # two threads may want to
        with contextlib.suppress(OSError, RuntimeError):  # a closed pipe; a print that was cut off
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2 if status == 1 else 1, f'{line}\n'.encode())
        os._exit(status)


def _unraisable(report: 'sys.UnraisableHookArgs') -> None:
    """Prints an error in a library's thread, but for what follows a failed save, which has a line.

    After the first array that cannot be written, Orbax closes its event loop; TensorStore's threads
    then fail to report each other array to it.
    """
    error = report.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
        sys.__unraisablehook__(report)


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _ending:
        return
    line = phases.stop_line()
    if phases.current().name in ('start', 'close'):
        leave(STOPPED, line)  # nothing is open yet, or everything is being closed
    phases.enter('close')
    raise Stopped(line)


def _listen(reader: int) -> None:
    """Notes the times of signals; C code writes a byte for each one, whatever Python does."""
    while numbers := os.read(reader, 64):
        if {signal.SIGINT, signal.SIGTERM} & set(numbers):
            _signals.append((time.monotonic(), phases.stop_line()))


def _limit() -> None:
    """Ends a process that does not end by itself."""
    while True:
        time.sleep(0.25)
        now, phase = time.monotonic(), phases.current()
        if _ending and now - _ending[0] > _limit_seconds:
            os._exit(_status)
        if _signals and not _ending:
            heard, line = _signals[0]
            if now - max(heard, phase.since) > phase.patience:
                leave(STOPPED, line)


def _last() -> None:
    """Ends the process after all other exit functions."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(_status)
