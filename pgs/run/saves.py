"""Saves within the training loop, of which a config may allow some to fail."""

import contextlib
from collections.abc import Iterator

import jax
from orbax.checkpoint import CheckpointManager

from pgs.run import checkpoint
from pgs.run.checkpoint import SaveFailed
from pgs.step import TrainState
from pgs.utils.distributed import print_once


class Saves:
    """Saves checkpoints; a failed one is counted, and the run goes on while that is allowed.

    The earlier checkpoints stay: a failed save takes no place among those that are kept. Several
    processes cannot know of each other's failures, so that the first one stops them.
    """

    def __init__(self, manager: CheckpointManager, allowed: int):
        """allowed: saves in a row that may fail; 0: none, the run then stops."""
        self._manager = manager
        self._allowed = allowed if jax.process_count() == 1 else 0
        self._written = False  # whether a save is under way
        self._row = self._failed = 0

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save.

        Raises:
          UserError: more than `allowed` saves in a row failed, or the state is not finite.
        """
        self.settle()
        with self._counted():
            checkpoint.save(self._manager, step, state)
            self._written = True

    def save_last(self, step: int, state: TrainState) -> None:
        """Starts the save at the end of the loop, which must not fail."""
        self.settle()
        checkpoint.save(self._manager, step, state)

    def settle(self) -> None:
        """Waits for the save that is under way, as Orbax itself does before the next one."""
        if self._written:
            self._written = False
            with self._counted():
                checkpoint.wait(self._manager)
                self._row = 0

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except SaveFailed as error:
            self._row, self._failed = self._row + 1, self._failed + 1
            if self._row > self._allowed:
                raise
            checkpoint.remove_unfinished(self._manager)
            print_once(
                f'warning: {error} The run goes on: {self._row} failed in a row, {self._failed} in '
                f'all (config.failed_saves_allowed={self._allowed})'
            )
