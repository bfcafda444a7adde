"""What a run scores while it trains: config.evals, every config.eval_every steps."""

from collections.abc import Callable

from pgs.distributed import say
from pgs.errors import UserError
from pgs.evals.embedding import Embedder
from pgs.evals.run import open_tasks, run_task
from pgs.evals.tasks import expand

HELD_OUT = 'held_out'  # loss and recall on the validation split of config.data; scores.py
SHOWN = ('acc', 'acc1', 'mean_average_precision', 'text_recall@5', 'image_retrieval_recall@5',
         'val_loss')  # fmt: skip


def make_evals(config, embedder: Embedder) -> Callable[[dict], dict]:
    """Opens the data of config.evals, before a run starts.

    Args:
      config: as configs/base.py; evals are HELD_OUT and tasks and groups of pgs.evaluate.
      embedder: of the run's model and mesh, without parameters.

    Returns:
      params -> {'<task>/<metric>': value}, without HELD_OUT. A task that fails is told and left
      out: hours of training are not lost to a damaged shard.

    Raises:
      UserError: an unknown task, a set that is absent or does not fit, eval_every below 0.
    """
    if config.eval_every < 0:
        raise UserError(f'config.eval_every={config.eval_every} must be at least 0')
    if isinstance(config.evals, str):
        raise UserError(
            f"config.evals={config.evals!r} must be a tuple, such as ('{config.evals}',)"
        )
    names = [name for name in config.evals if name != HELD_OUT]
    opened, missing, failed = open_tasks(expand(names) if names else [], config.eval_data_root)
    if missing:
        name, where = next(iter(missing.items()))
        raise UserError(
            f'config.evals: {name} is absent ({len(missing)} such): put it at {where}, '
            'or leave it out'
        )
    if failed:
        raise UserError(f'config.evals: {next(iter(failed.values()))}')

    def score(params) -> dict[str, float]:
        scores, class_weights = {}, {}
        with_params = embedder.with_params(params)
        for task in opened:
            try:
                metrics = run_task(task, with_params, class_weights, lambda split, run: run())
            except UserError as error:
                say(f'warning: {task.name} is not scored: {error}')
                continue
            scores |= {f'{task.name}/{k}': v for k, v in metrics.items() if k[:2] != 'n_'}
        return scores

    return score


def line(step: int, scores: dict[str, float]) -> str:
    """One console line: a figure or two a task."""
    shown = [f'{k} {v:.3f}' for k, v in scores.items() if k.split('/')[-1] in SHOWN]
    return f'  scored at step {step}: {", ".join(shown)}'
