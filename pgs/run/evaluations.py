"""What a run scores while it trains: held-out pairs and the tasks of config.evals."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from pgs.errors import UserError
from pgs.evaluate.run import open_tasks, run_task
from pgs.evaluate.tasks import expand
from pgs.inference.embedding import Embedder
from pgs.utils.distributed import print_once

HELD_OUT = 'held_out'  # in config.evals: loss and recall on the validation split (held_out.py)
SHOWN = {
    'acc',
    'acc1',
    'mean_average_precision',
    'text_recall@5',
    'image_retrieval_recall@5',
    'val_loss',
}


def task_scorer(config: ConfigDict, embedder: Embedder) -> Callable[[Any], dict[str, float]]:
    """Opens the data of config.evals, before a run starts.

    Args:
      config: as configs/base.py; evals are HELD_OUT, and tasks and groups of pgs.evaluate.
      embedder: of the run's model and mesh, without parameters.

    Returns:
      A function params -> {'<task>/<metric>': value}, without HELD_OUT. A task that fails is
      logged and left out, so that a damaged shard does not end hours of training.

    Raises:
      UserError: an unknown task, or a set that is absent or does not fit.
    """
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

    def score(params: Any) -> dict[str, float]:
        scores: dict[str, float] = {}
        class_weights: dict = {}
        with_params = embedder.with_params(params)
        for task in opened:
            try:
                metrics = run_task(task, with_params, class_weights, lambda split, run: run())
            except UserError as error:
                print_once(f'warning: {task.name} is not scored: {error}')
                continue
            scores |= {f'{task.name}/{k}': v for k, v in metrics.items() if k[:2] != 'n_'}
        return scores

    return score


def scores_line(step: int, scores: Mapping[str, float | None]) -> str:
    """One console line: a figure or two for each task; scores that are None are left out."""
    shown = [
        f'{k} {v:.3f}' for k, v in scores.items() if k.split('/')[-1] in SHOWN and v is not None
    ]
    return f'  scored at step {step}: {", ".join(shown)}'
