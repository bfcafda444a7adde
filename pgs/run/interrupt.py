"""A request to stop within the train loop, which is honoured after the running step."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import jax


class Aborted(BaseException):
    """A request to stop arrived within `Interrupt.aborts`."""


class Interrupt:
    """Turns Ctrl-C and a scheduler's SIGTERM into a request to stop after the running step.

    Several processes must stop after the same step. There JAX's preemption service listens for
    SIGTERM and makes them agree; this class then installs no handlers and asks the service.
    A second signal stops at once.
    """

    def __init__(self, reached_preemption: Callable[[int], bool]):
        """reached_preemption: step -> whether the service asks to stop after it; called each step."""
        self._reached_preemption = reached_preemption
        self._heard: float | None = None
        self._aborts = False
        self.requested = False

    def check(self, step: int) -> bool:
        """Whether to stop after this step; to be called once after every step."""
        self.requested = self._reached_preemption(step) or self.requested
        if self.requested and self._heard is None:
            self._heard = time.monotonic()
        return self.requested

    def seconds(self) -> float:
        """Time since the request: since the signal, or of several processes, since they agreed."""
        return 0.0 if self._heard is None else time.monotonic() - self._heard

    @contextlib.contextmanager
    def aborts(self) -> Iterator[None]:
        """Work that a request to stop breaks off, without an error; the loop then stops."""
        self._aborts = True
        try:
            yield
        except Aborted:
            pass
        finally:
            self._aborts = False

    def __enter__(self):
        signals = () if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._before = {s: signal.signal(s, self._request) for s in signals}
        return self

    def _request(self, number, frame):
        del frame
        self.requested, self._heard = True, time.monotonic()
        for each, handler in self._before.items():
            signal.signal(each, handler)  # a second signal stops at once
        if self._aborts:
            self._aborts = False
            raise Aborted

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)
