"""Scores a model on the paper's tables, or on sets of one's own.

  python -m pgs.evaluate --checkpoint=runs/pgs-0.3 --tasks=classification,retrieval --data_root=DATA

--checkpoint is a run's folder, a folder that pgs.convert wrote, or an OpenCLIP file (docs/weights.md).
--tasks are tasks or groups, by comma:
  classification  17 sets, zero-shot      robustness   6 ImageNets, zero-shot
  retrieval       COCO, Flickr8k, 30k     linear_probe CIFAR-10, -100, ImageNet
  sugar_crepe     7 subsets               paper        all of these
  zeroshot/SET, retrieval/SET, linear_probe/SET, sugar_crepe/SUBSET   one; SET may be any folder
--data_root holds a folder a set in CLIP-benchmark's layout, or TFDS sets (docs/evaluation.md).
Sets that are absent are listed, the rest runs. The same command again does what is left.
Then: python -m pgs.report results.json
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

from pgs.convert import load_model
from pgs.convert.tensors import SUFFIXES
from pgs.errors import UserError
from pgs.evaluate import run
from pgs.evaluate.tasks import GROUPS, expand
from pgs.inference import on_all_devices
from pgs.inference.embedding import Embedder
from pgs.run import workdir
from pgs.utils import cli, distributed
from pgs.utils.console import format_seconds
from pgs.utils.distributed import print_once

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Model: a run, a folder or an OpenCLIP file.')
MODEL_CONFIG = flags.DEFINE_string('model_config', None, "OpenCLIP's model JSON of a bare file.")
TASKS = flags.DEFINE_list('tasks', ['paper'], 'Tasks and groups.')
DATA_ROOT = flags.DEFINE_string('data_root', '~/clip_benchmark', 'Folder of the sets.')
OUT = flags.DEFINE_string('out', 'results.json', 'Where the figures go, task by task.')
NAME = flags.DEFINE_string('name', None, "Row's name in pgs.report; the checkpoint's by default.")
BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images or texts a device.', lower_bound=1)
COUNTS = ('n', 'n_texts', 'n_cut')


def fingerprint(params) -> str:
    """16 hex digits that tell one set of weights from another."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def name_of(checkpoint: str) -> str:
    """'runs/pgs-0.3' -> 'pgs-0.3', 'weights/a.safetensors' -> 'a'."""
    path = Path(checkpoint)
    return path.stem if path.suffix in SUFFIXES else path.name


def previous(path: Path, weights: str, data_root: str) -> dict:
    """Content of an earlier results file of the same weights and data, or {}.

    Raises:
      UserError: a file of others, or none that this command wrote.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        same = (found['weights'], found['data_root']) == (weights, data_root)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'--out={path} is no results file of pgs.evaluate: give another') from error
    if not same:
        raise UserError(
            f'--out={path} holds results of {found["checkpoint"]} on {found["data_root"]}, other '
            'weights or data: give another --out, or move it away'
        )
    return found


def cache_in(folder: Path, task: run.Task, weights: str):
    """A feature_cache for run_task: FOLDER/<set>-<split>-<weights>.npz; none on several hosts.

    These need not see the same files, and all must take part where one computes.
    """
    if jax.process_count() > 1:
        return lambda split, compute: compute()

    def cached(split, compute):
        path = folder / f'{task.name.split("/")[1]}-{split}-{weights}.npz'
        if path.exists():
            with np.load(path) as file:
                return file['features'], file['labels']
        features, labels = compute()
        folder.mkdir(parents=True, exist_ok=True)
        with workdir.replacing(path) as file:
            np.savez(file, features=features, labels=labels)
        return features, labels

    return cached


def line(metrics: dict) -> str:
    """One task's figures, in percent, and its counts."""
    shares = [
        f'{name} {100 * value:.1f}'
        for name, value in metrics.items()
        if name not in COUNTS and name != 'weight_decay'
    ]
    decay = f', weight decay {metrics["weight_decay"]:.3g}' if 'weight_decay' in metrics else ''
    cut = f', {metrics["n_cut"]} texts cut to the context length' if metrics.get('n_cut') else ''
    return f'{", ".join(shares)}{decay} ({metrics["n"]} images{cut})'


def evaluate(embedder: Embedder, names: list[str], data_root: str, out: Path, header: dict) -> dict:
    """Runs tasks and writes the results file after each.

    Args:
      embedder: with parameters.
      names: tasks, expanded.
      data_root: folder of the sets.
      out: results file; what it holds of the same weights and data is kept.
      header: checkpoint, name and weights (fingerprint), for the file.

    Returns:
      The file's content: header, data_root, tasks {name: {kind, metrics, n, n_cut, seconds, data}},
      missing {name: where to put it}, failed {name: why}.

    Raises:
      UserError: --out that holds other results or cannot be written.
    """
    results = previous(out, header['weights'], data_root)
    done = results.get('tasks', {})
    opened, missing, failed = run.open_tasks([n for n in names if n not in done], data_root)
    results = header | {'data_root': data_root, 'tasks': done, 'missing': missing, 'failed': failed}
    if not opened and not done:
        raise UserError(f'no task can run: {"; ".join([*missing.values(), *failed.values()])}')
    if already := [n for n in names if n in done]:
        print_once(f'{len(already)} of {len(names)} tasks are done in {out}')
    for name, where in missing.items():
        print_once(f'missing {name}: put it at {where}')
    distributed.on_primary(lambda: write(out, results))  # before hours of work, not after
    class_weights = {}
    for number, task in enumerate(opened, 1):
        print_once(f'[{number}/{len(opened)}] {task.name}: {task.data.origin}')
        if task.data.note:
            print_once(f'  note: {task.data.note}')
        clock = time.perf_counter()
        cache = cache_in(out.with_suffix('.features'), task, header['weights'])
        try:
            metrics = run.run_task(task, embedder, class_weights, cache)
        except UserError as error:
            failed[task.name] = str(error)
        else:
            seconds = time.perf_counter() - clock
            print_once(f'  {line(metrics)}, {format_seconds(seconds)}')
            done[task.name] = {
                'kind': task.kind,
                **{name: metrics[name] for name in COUNTS if name in metrics},
                'metrics': {k: v for k, v in metrics.items() if k not in COUNTS},
                'seconds': seconds,
                'data': task.data.origin,
                'note': task.data.note,
            }
        distributed.on_primary(lambda: write(out, results))
    for name, why in failed.items():
        print_once(f'failed {name}: {why}')
    return results


def write(out: Path, results: dict) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_json(out, results)
    except OSError as error:
        raise UserError(f'cannot write --out={out} ({error.strerror}): give another') from error


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1 or not CHECKPOINT.value:
            raise UserError('give --checkpoint=RUN_OR_FOLDER_OR_FILE (and --help tells the rest)')
        names = expand(TASKS.value)
        distributed.start()
        loaded = load_model(CHECKPOINT.value, model_config=MODEL_CONFIG.value)
        embedder = on_all_devices(loaded, BATCH_SIZE.value)
        header = {
            'name': NAME.value or name_of(CHECKPOINT.value),
            'checkpoint': loaded.source,
            'weights': fingerprint(loaded.params),
        }
        root = os.path.abspath(os.path.expanduser(DATA_ROOT.value))
        print_once(
            f'{loaded.source} on {jax.device_count()} {jax.default_backend()} device(s), data in {root}'
        )
        results = evaluate(embedder, names, root, Path(OUT.value).expanduser(), header)
        tables = f' Tables: python -m pgs.report {OUT.value}'
        print_once(
            f'Written: {OUT.value}.{tables if results["tasks"].keys() & GROUPS["paper"] else ""}'
        )
        if results['failed']:
            raise UserError(f'{len(results["failed"])} task(s) failed, see above')
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    cli.run(main)
