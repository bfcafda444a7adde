"""The main job: train(config, workdir), from the checks to scores and figures."""

import contextlib
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from pgs import sharding
from pgs.build import check_config
from pgs.convert.architecture import with_architecture
from pgs.run import checkpoint, init_from, lock, provenance, summary
from pgs.run import tracker as trackers
from pgs.run import workdir as workdirs
from pgs.run.data import is_smoke_test
from pgs.run.evaluations import scores_line
from pgs.run.hooks import is_scored
from pgs.run.loop import log_scores, run_loop, score
from pgs.run.metrics import MetricLog
from pgs.run.metrics_file import cut_back, is_logged
from pgs.run.opening import Run, open_run, start_lines
from pgs.step import init_state
from pgs.utils import distributed, exits, phases
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute


def train(
    config: ConfigDict, workdir: str | os.PathLike, *, last_step: int | None = None
) -> dict[str, Any]:
    """Trains the model that config describes, or resumes it, then scores it.

    Where several processes run the job, all call this with the same arguments.

    Args:
      config: as configs/base.py; not changed.
      workdir: folder or gs:// address, for config.json, metrics.jsonl, checkpoints/, figures/ and
        results.json; all processes see the same one.
      last_step: stop after this step, as after an interrupt; None trains to the end.

    Returns:
      The content of results.json; {} on all processes but the first.

    Raises:
      UserError: bad config, data or folder, before anything is written; a diverged loss.
      Stopped: an interrupt, or last_step was reached; the same call without it resumes the run.
    """
    # --- Check and open everything; nothing is written yet ---
    phases.enter('open')
    config = with_architecture(config, absolute(workdir))
    check_config(config, devices=jax.device_count(), platform=jax.default_backend())
    distributed.on_primary(lambda: trackers.check(config.tracker))
    run = open_run(config, absolute(workdir))
    initial = init_from.read_initial(run.config, run.workdir)
    with contextlib.ExitStack() as stack:  # closed in reverse, after an error or a signal as well
        if run.data.cache is not None:
            stack.enter_context(exits.closed(run.data.cache))
        held = stack.enter_context(lock.hold(run.workdir))
        distributed.on_primary(lambda: workdirs.prepare(run.workdir, run.config.to_dict()))
        distributed.on_primary(lambda: checkpoint.set_damaged_aside(run.workdir))
        return train_and_score(run, initial, held, stack, last_step)


def train_and_score(
    run: Run,
    initial: dict[str, Any] | None,
    held: lock.Lock,
    stack: contextlib.ExitStack,
    last_step: int | None,
) -> dict[str, Any]:
    """Starts or resumes a run in its folder; see `train`.

    Args:
      run: as open_run returns it.
      initial: parameters of init_from.read_initial.
      held: the lock of the folder.
      stack: closes what is opened here.
      last_step: of train.
    """
    config, total = run.config, run.config.total_steps

    # --- Start or resume ---
    manager = stack.enter_context(
        exits.closed(
            checkpoint.open_manager(
                run.workdir / 'checkpoints',
                keep=config.checkpoints_kept,
                keep_every=config.checkpoints_kept_every,
                best=config.checkpoint_best,
            )
        )
    )
    job = run.job
    state = init_state(
        job.model,
        job.optimizer,
        config.seed,
        run.mesh,
        job.strategy,
        averaged=config.weights_ema > 0.0,
    )
    if manager.latest_step() is not None:
        state = checkpoint.restore(manager, state)
    elif initial is not None:
        state = init_from.place(state, initial)
    del initial  # a copy of all weights on the host
    start = int(state.step)
    again = f'the same command with --workdir={run.workdir}'
    phases.set_outcome(f'nothing is lost: {again} goes on at step {start} of {total}')
    print_once(start_lines(run, state))
    record_start(run, start)
    copy = checkpoint.saved_log(manager, start)
    distributed.on_primary(
        lambda: cut_back(run.workdir, resume_step=start, total_steps=total, copy=copy)
    )
    tracker = trackers.start(config, run.workdir) if distributed.is_primary() else None
    if tracker is not None:
        stack.enter_context(exits.closed(tracker))
    log = MetricLog(run.workdir if distributed.is_primary() else None, tracker)
    stack.enter_context(exits.closed(log))
    stack.enter_context(distributed.ends_together())
    phases.enter('score')
    if start == 0 and not is_smoke_test(run.config, run.data):
        log_scores(log, 0, run.scorers.held_out(state.weights))
    if is_scored(config, start) and not distributed.agree(lambda: is_logged(run.workdir, start)):
        score(run, log, start, state.weights)  # an interrupt came before

    # --- Train ---
    rate = 0.0
    if start < total:
        state, rate = run_loop(run, state, log, manager, held=held, last_step=last_step)

    # --- Score ---
    phases.enter('score')
    phases.set_outcome(f'the training is complete and saved: {again} scores it')
    held_out, tasks = run.scorers.held_out(state.weights), run.scorers.tasks(state.weights)
    log_scores(log, total, held_out | tasks)
    if tasks:
        print_once(scores_line(total, tasks))
    params = sharding.to_host(run.mesh, state.weights)

    def finish() -> dict[str, Any]:
        if not distributed.is_primary():
            return {}
        results = summary.finish(
            run.config,
            run.job.model,
            params,
            run.data.train[0][0],
            run.data.held_out,
            held_out,
            rate=rate,
            workdir=run.workdir,
        )
        if tracker is not None:
            phases.enter('track', patience=trackers.PATIENCE)
            tracker.finish(results, run.workdir)
        return results

    # The others stay: JAX would end the first process soon after they have left.
    phases.enter('figures')
    return distributed.primary_first(finish)


def record_start(run: Run, step: int) -> None:
    """Writes what this start of the run is made of into the workdir."""
    opened = [records for records, _ in run.data.train]
    config = run.config.to_dict()

    def write() -> None:
        provenance.record_start(run.workdir, step=step, config=config, sources=opened)

    distributed.on_primary(write)
