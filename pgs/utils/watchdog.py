"""Reports a phase that makes no progress, and ends a process that hangs."""

import faulthandler
import sys
import threading
import time

from pgs.utils import exits, phases
from pgs.utils.console import format_seconds

FIRST_SECONDS = 30.0  # silence that is reported; then 60, 120, ...
TICK_SECONDS = 0.5
# A large program compiles for an hour, and the end of the imports is not in this project's hands.
NEVER_ENDED = ('start', 'compile')


def start(limit: float) -> None:
    """Watches the phases of the main thread from a thread of its own.

    Args:
      limit: seconds without progress after which all threads' stacks are printed and the process
        ends with exit status 1, but for NEVER_ENDED; 0: none.
    """
    threading.Thread(target=_watch, args=(limit,), name='watchdog', daemon=True).start()


def _watch(limit: float) -> None:
    since, due = 0.0, FIRST_SECONDS
    while True:
        time.sleep(TICK_SECONDS)
        phase = phases.current()
        if phase.since != since:
            since, due = phase.since, FIRST_SECONDS
        silent = time.monotonic() - phase.since
        doing = phases.DOING[phase.name]
        if limit and silent >= limit and phase.name not in NEVER_ENDED:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            exits.leave(
                1,
                f'error: no progress for {format_seconds(silent)} while {doing}, which '
                f'config.silence_limit={limit:g} does not allow; {phases.outcome()}',
            )
        if silent >= due:
            print(f'warning: no progress for {format_seconds(silent)} while {doing}', flush=True)
            due *= 2
