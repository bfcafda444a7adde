"""Several processes that run one job: start-up, and work that only one of them does."""

import atexit
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from pgs.errors import UserError
from pgs.utils import exits

HEARTBEAT_SECONDS = 30  # a process silent for this long counts as dead, and the job ends
MESSAGE_BYTES = 32_768  # of what the primary process sends to the others
T = TypeVar('T')
WAIT_MILLISECONDS = 10_000  # of one question whether the primary process is done
VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
_calls = itertools.count()  # of primary_first, the same on all processes


def start() -> None:
    """Joins the other processes of a job, before JAX is used; no-op for a single process.

    JAX finds them on Cloud TPU pods, Slurm, Open MPI and GKE. Elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID describe them.

    Raises:
      UserError: some of the three variables but not all, or processes that cannot be reached.
    """
    explicit: dict[str, Any] = {}
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise UserError(f'{given[0]} is set and {missing[0]} is not: set all or none')
        try:
            count, index = (int(os.environ[name]) for name in VARIABLES[1:])
        except ValueError as error:
            raise UserError(f'{" and ".join(VARIABLES[1:])} must be integers: {error}') from error
        if not 0 <= index < count:
            raise UserError(
                f'JAX_PROCESS_ID={index} must be from 0 to JAX_NUM_PROCESSES - 1 = {count - 1}'
            )
        address = os.environ[VARIABLES[0]]
        explicit = {
            'coordinator_address': address,
            'num_processes': count,
            'process_id': index,
            'cluster_detection_method': 'deactivate',
        }
    try:
        jax.distributed.initialize(**explicit, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        if explicit or 'coordinator_address' not in str(error):
            raise
        # JAX found no cluster: this is the only process.
    except RuntimeError as error:
        where = explicit.get('coordinator_address', 'the coordinator of the cluster')
        raise UserError(
            f'no connection to the processes of this job at {where}: '
            f'{str(error).splitlines()[0]}; are all of them started, and is the port open?'
        ) from error
    else:
        # Waits for the others. JAX does so too, but only after our own exit function (pgs/utils/exits.py)
        # where JAX was imported before that was registered.
        atexit.register(jax.distributed.shutdown)


@contextlib.contextmanager
def ends_together() -> Iterator[None]:
    """Ends a process at once, with one line, when its computation with other processes fails.

    Most likely another one is gone, and everything that is to be closed would wait for it. JAX's
    coordination service would end this process too, at its next heartbeat and with many lines.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        exits.leave(
            1,
            f'error: a computation of {jax.process_count()} processes failed in process '
            f'{jax.process_index()} ({str(error).splitlines()[0]}): most likely another one ended; '
            'read its last line, then start all of them again: the same command goes on',
        )


def is_primary() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def print_once(*words) -> None:
    """print on the primary process only."""
    if is_primary():
        print(*words, flush=True)


def on_primary(call: Callable[[], None]) -> None:
    """Runs call() on the primary process; the others wait, and raise its UserError if it raises one."""
    from_primary(call)


def from_primary(call: Callable[[], T]) -> T:
    """The result of call() on the primary process, on all processes; it must survive JSON.

    Raises:
      UserError: on all processes, if call() raises one on the primary.
    """
    value, message = None, ''
    if is_primary():
        try:
            value = call()
        except UserError as error:
            message = str(error)
    if jax.process_count() > 1:
        text = np.zeros(MESSAGE_BYTES, np.uint8)
        content = json.dumps([value, message[: MESSAGE_BYTES // 8]]).encode()
        text[: len(content)] = np.frombuffer(content, np.uint8)
        text = multihost_utils.broadcast_one_to_all(text)
        value, message = json.loads(bytes(text).rstrip(b'\0'))
    if message:
        raise UserError(message)
    return cast(T, value)


def agree(call: Callable[[], bool]) -> bool:
    """call() on the primary process; all processes return its value."""
    answer = np.array(is_primary() and call())
    return (
        bool(multihost_utils.broadcast_one_to_all(answer))
        if jax.process_count() > 1
        else bool(answer)
    )


def primary_first(call: Callable[[], T]) -> T:
    """call() on the primary process first, then on the others, so that it builds shared files once.

    The others wait at JAX's coordination service for as long as it takes: a collective would give up
    after half a minute over gloo.

    Raises:
      UserError: on all processes, if call() raises one on the primary.
    """
    if jax.process_count() == 1:
        return call()
    from orbax.checkpoint import multihost  # seconds to import, and one process does without it

    client, key = multihost.get_jax_distributed_client(), f'clip_pgs/primary_first/{next(_calls)}'
    if is_primary():
        try:
            value = call()
        except UserError as error:
            client.key_value_set(key, json.dumps(str(error)))
            raise
        client.key_value_set(key, json.dumps(''))
        return value
    while True:
        try:
            message = json.loads(client.blocking_key_value_get(key, WAIT_MILLISECONDS))
            break
        except jax.errors.JaxRuntimeError as error:
            if 'DEADLINE_EXCEEDED' not in str(error):
                raise
    if message:
        raise UserError(message)
    return call()
