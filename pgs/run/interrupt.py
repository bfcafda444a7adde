"""A request to stop, which is honoured after the running step."""

import signal
from collections.abc import Callable

import jax


class Stopped(Exception):
    """An interrupt ended the run after a step; its checkpoint is complete."""


class Interrupt:
    """Turns Ctrl-C and a scheduler's SIGTERM into a request to stop after the running step.

    Several processes must stop after the same step. There JAX's preemption service listens for
    SIGTERM and makes them agree; this class then installs no handlers and asks the service.
    A second signal stops at once.
    """

    def __init__(self, reached_preemption: Callable[[int], bool]):
        """reached_preemption: step -> whether the service asks to stop after it; called each step."""
        self._reached_preemption = reached_preemption
        self.requested = False

    def check(self, step: int) -> bool:
        """Whether to stop after this step; to be called once after every step."""
        self.requested = self._reached_preemption(step) or self.requested
        return self.requested

    def __enter__(self):
        signals = () if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._before = {s: signal.signal(s, self._request) for s in signals}
        return self

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._before[number])  # a second one stops at once

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)
