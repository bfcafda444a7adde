"""What this process is doing: the current phase, since when, and what a stop would cost.

The train loop reports its phases here; `exits` and `watchdog` read them from another thread.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

PATIENCE = 5.0  # seconds
DOING = {
    'start': 'starting (imports and devices)',
    'open': 'opening the data',
    'data': 'reading data',
    'compile': 'compiling',
    'step': 'computing a train step',
    'save': 'saving a checkpoint',
    'score': 'scoring',
    'figures': 'drawing the figures',
    'track': 'sending the results to the tracker',
    'close': 'closing files and readers',
}


class Phase(NamedTuple):
    """A phase, by its name in DOING.

    Attributes:
      name: of the phase.
      since: time.monotonic() of its start, or of its last progress.
      patience: seconds that a request to stop waits for its end.
    """

    name: str
    since: float
    patience: float


_current = Phase('start', time.monotonic(), PATIENCE)
_outcome = 'nothing was started'


def current() -> Phase:
    """The phase of the main thread."""
    return _current


def enter(name: str, *, patience: float = PATIENCE) -> None:
    """Starts a phase, or reports progress in it."""
    global _current
    _current = Phase(name, time.monotonic(), patience)


@contextlib.contextmanager
def phase(name: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """A phase within another one, which goes on afterwards; after an error, the phase 'close'."""
    outer = _current
    enter(name, patience=patience)
    try:
        yield
    except BaseException:
        enter('close')
        raise
    enter(outer.name, patience=outer.patience)


def progress() -> None:
    """Reports progress in the current phase."""
    enter(_current.name, patience=_current.patience)


def set_outcome(text: str) -> None:
    """Records what is kept if the process stops from now on, for the line of a stop."""
    global _outcome
    _outcome = text


def outcome() -> str:
    """What is kept if the process stops now."""
    return _outcome


def stop_line() -> str:
    """The line of a process that stops in the current phase, before it finished it."""
    return f'stopped while {DOING[_current.name]}: {_outcome}'
