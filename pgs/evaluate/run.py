"""Opens tasks and scores them, each by its protocol.

A protocol is two functions in a module of its own, and one entry in PROTOCOLS.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pgs.errors import UserError
from pgs.evaluate import linear_probe, retrieval, sugar_crepe, zero_shot
from pgs.evaluate.context import ClassWeights, Context, FeatureCache
from pgs.evaluate.data import Task
from pgs.inference.embedding import Embedder


class Protocol(NamedTuple):
    """How tasks of one kind are evaluated.

    Attributes:
      open_task: (task, data root) -> Task, or a line that says where to put absent data.
      score_task: (Task, Context) -> metrics and counts.
    """

    open_task: Callable[[str, Path], Task | str]
    score_task: Callable[[Task, Context], dict[str, float]]


PROTOCOLS = {
    'zeroshot': Protocol(zero_shot.open_task, zero_shot.score_task),
    'retrieval': Protocol(retrieval.open_task, retrieval.score_task),
    'linear_probe': Protocol(linear_probe.open_task, linear_probe.score_task),
    'sugar_crepe': Protocol(sugar_crepe.open_task, sugar_crepe.score_task),
}


def open_task(task: str, data_root: str | os.PathLike) -> Task | str:
    """Opens a task's data.

    Args:
      task: '<protocol>/<set>'; see pgs/evaluate/tasks.py.
      data_root: folder with one folder per set, or with TFDS sets.

    Returns:
      The task; if its data is absent, a line that says where to put it.

    Raises:
      UserError: data that exists but does not fit the task.
    """
    return PROTOCOLS[task.split('/')[0]].open_task(task, Path(data_root).expanduser())


def open_tasks(
    names: list[str], data_root: str | os.PathLike
) -> tuple[list[Task], dict[str, str], dict[str, str]]:
    """Opens all tasks that can be opened.

    Returns:
      (tasks, absent task -> where to put its data, unusable task -> the reason).
    """
    tasks, missing, failed = [], {}, {}
    for name in names:
        try:
            task = open_task(name, data_root)
        except UserError as error:
            failed[name] = str(error)
            continue
        if isinstance(task, str):
            missing[name] = task
        else:
            tasks.append(task)
    return tasks, missing, failed


def run_task(
    task: Task, embedder: Embedder, class_weights: ClassWeights, feature_cache: FeatureCache
) -> dict[str, float]:
    """Scores a task.

    Args:
      task: see open_task.
      embedder: with parameters.
      class_weights: a dict that the caller keeps for all tasks of a model; see Context.
      feature_cache: see Context.

    Returns:
      Metrics by clip-benchmark's names, shares in [0, 1], and counts: n, images; n_cut, texts that
      were cut to the context length; n_texts.

    Raises:
      UserError: data or features that cannot be used.
    """
    context = Context(task.name, embedder, class_weights, feature_cache)
    return PROTOCOLS[task.protocol].score_task(task, context)
