"""The compiled train steps of a run: the masked one, and the unmasked one for the end of the run."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from pgs.build import Job
from pgs.step import TrainState, TrainStep, lower_train_step
from pgs.utils.distributed import print_once


def compile_programs(
    job: Job,
    mesh: Mesh,
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    last_masked: int,
    total: int,
) -> Callable[[int], TrainStep]:
    """Compiles what the steps from the state's on need, ahead of time, for these very shapes.

    Nothing can be compiled a second time. The unmasked program is compiled in a thread while the
    masked one runs; it reads captions of the text tower's full length (run/data.py).

    Args:
      job: of pgs.build.
      mesh, state, batch: arrays on the mesh.
      last_masked: last step that masks images, see build.last_masked_step.
      total: steps of the run.

    Returns:
      step, from 1 -> (state, batch) -> (state, metrics).
    """
    start = int(state.step)
    state_shapes, batch_shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, batch)
    )

    def compiled(train_step: TrainStep, batch: dict[str, Any]) -> Any:
        return lower_train_step(train_step, mesh, state_shapes, batch).compile()

    clock = time.perf_counter()
    first = compiled(job.train_step if start < last_masked else job.unmasked_step, batch_shapes)
    print_once(f'Compiled the train step in {time.perf_counter() - clock:.1f} s')
    if not start < last_masked < total:
        return lambda step: first

    executor = ThreadPoolExecutor(1)
    short = batch_shapes['tokens']
    tokens = short.update(shape=(short.shape[0], job.model.text.context_length))
    unmasked: Future[Any] = executor.submit(
        compiled, job.unmasked_step, batch_shapes | {'tokens': tokens}
    )
    executor.shutdown(wait=False)

    def program(step: int) -> TrainStep:
        if step == last_masked + 1:
            subject = 'images are' if tokens.shape == short.shape else 'images and captions are'
            print_once(f'From step {step} on {subject} whole (config.masking.until)')
        return first if step <= last_masked else unmasked.result()

    return program
