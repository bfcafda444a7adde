"""A request to stop, heard after the running step."""

import signal

import jax


class Stopped(Exception):
    """An interrupt ended the run after a step; its checkpoint is complete."""


class Interrupt:
    """Turns Ctrl-C and a scheduler's SIGTERM into a request to stop after the running step.

    Several processes must stop after the same step. There JAX's preemption service listens for
    SIGTERM and makes them agree, so that this class leaves signals alone and asks the service.
    """

    def __enter__(self):
        self.requested = False
        signals = () if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._before = {s: signal.signal(s, self._note) for s in signals}
        return self

    def _note(self, number, frame):
        del frame
        self.requested = True
        signal.signal(number, self._before[number])  # a second one stops at once

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)
