"""Scores a checkpoint on tasks and writes results task by task; a second call runs what is left."""

import os
import time
from pathlib import Path
from typing import Any

import jax

from pgs.convert import load_model
from pgs.convert.parameters import fingerprint
from pgs.errors import UserError
from pgs.evaluate import results_file
from pgs.evaluate.context import ClassWeights
from pgs.evaluate.data import Task
from pgs.evaluate.feature_cache import cache_in
from pgs.evaluate.run import open_tasks, run_task
from pgs.inference.clip import on_all_devices
from pgs.inference.embedding import Embedder
from pgs.inference.masking import WHOLE, find_mask
from pgs.utils import distributed
from pgs.utils.console import format_seconds
from pgs.utils.distributed import print_once


def evaluate_checkpoint(
    checkpoint: str,
    names: list[str],
    data_root: str,
    out: Path,
    *,
    model_config: str | None = None,
    masking: str = WHOLE,
    row_name: str | None = None,
    authors_weights: bool = False,
    batch_size: int,
) -> dict[str, Any]:
    """Loads a model onto all devices and scores it; see `evaluate`.

    Args:
      checkpoint, model_config: as load_model.
      masking: mask of the images; see inference.masking.find_mask.
      names: tasks; see tasks.expand.
      data_root: folder of the sets.
      out: results file.
      row_name: of the model in pgs.report; by default, the checkpoint's.
      authors_weights: the weights are those of the paper's authors, which pgs.report says.
      batch_size: images or texts per device.

    Raises:
      UserError: a checkpoint or mask that cannot be used, no task that can run, or a results file
        of other weights, data or masks.
    """
    loaded = load_model(checkpoint, model_config=model_config)
    mask = find_mask(masking, checkpoint, loaded.model)
    embedder = on_all_devices(loaded, batch_size, mask)
    header: dict[str, Any] = {
        'name': row_name or results_file.row_name(checkpoint, mask.label if mask else ''),
        'checkpoint': loaded.source,
        'weights': fingerprint(loaded.params),
    }
    if authors_weights:
        header['authors_weights'] = True
    if mask is not None:
        header['masking'] = mask.settings
    root = os.path.abspath(os.path.expanduser(data_root))
    print_once(
        f'{loaded.source} on {jax.device_count()} {jax.default_backend()} device(s), data in {root}'
        + (f', images masked by {mask.label}' if mask else '')
    )
    return evaluate(embedder, names, root, out, header)


def evaluate(
    embedder: Embedder, names: list[str], data_root: str, out: Path, header: dict[str, Any]
) -> dict[str, Any]:
    """Scores tasks and writes the results file after each.

    Args:
      embedder: with parameters.
      names: tasks; see tasks.expand.
      data_root: folder of the sets.
      out: results file; its results are kept if they are of the same weights, data
        and masks.
      header: checkpoint, name, weights (fingerprint) and, where they apply, authors_weights and
        masking, for the file.

    Returns:
      The file's content: header, data_root, tasks {name: results_file.entry},
      missing {name: where to put the data}, failed {name: reason}.

    Raises:
      UserError: no task that can run, or a results file that holds other results or cannot be
        written.
    """
    previous = results_file.read_previous(out, header['weights'], data_root, header.get('masking'))
    done = previous.get('tasks', {})
    tasks, missing, failed = open_tasks([n for n in names if n not in done], data_root)
    results = header | {'data_root': data_root, 'tasks': done, 'missing': missing, 'failed': failed}
    if not tasks and not done:
        raise UserError(f'no task can run: {"; ".join([*missing.values(), *failed.values()])}')
    if already := [n for n in names if n in done]:
        print_once(f'{len(already)} of {len(names)} tasks are done in {out}')
    for name, where in missing.items():
        print_once(f'missing {name}: put it at {where}')
    distributed.on_primary(lambda: results_file.write(out, results))  # fail before hours of work
    class_weights: ClassWeights = {}
    for number, task in enumerate(tasks, 1):
        print_once(f'[{number}/{len(tasks)}] {task.name}: {task.data.origin}')
        try:
            done[task.name] = evaluate_task(
                task, embedder, class_weights, out, results_file.model_id(header)
            )
        except UserError as error:
            failed[task.name] = str(error)
        distributed.on_primary(lambda: results_file.write(out, results))
    for name, why in failed.items():
        print_once(f'failed {name}: {why}')
    return results


def evaluate_task(
    task: Task, embedder: Embedder, class_weights: ClassWeights, out: Path, model_id: str
) -> dict[str, Any]:
    """Scores one task, prints its metrics and returns its entry in the results file.

    Args:
      task, embedder, class_weights: as run_task.
      out: results file; features are cached in a folder beside it.
      model_id: of the weights and the mask; see results_file.model_id.
    """
    if task.data.note:
        print_once(f'  note: {task.data.note}')
    start = time.perf_counter()
    cache = cache_in(out.with_suffix('.features'), task.set_name, model_id)
    metrics = run_task(task, embedder, class_weights, cache)
    seconds = time.perf_counter() - start
    print_once(f'  {results_file.metrics_line(metrics)}, {format_seconds(seconds)}')
    return results_file.entry(task, metrics, seconds)
