"""Trains a small model with every mask and several seeds, and compares what each mask is worth.

  python -m benchmarks.study [--quick] [--seeds=5] [--data=openmoji_scenes] [--only=none,random,pgs]
                             [--batch_size=128] [--steps=200] [--together]
                             [--shifted=FOLDER]

Masks are compared three times: at equal steps, at equal FLOPs of the matrix products and at equal
training seconds, by the time of a step that is measured in turns at the start. Each comparison has
runs of its own, with a learning rate that ends at zero; numbers of steps that differ by up to 10 %
share one. Recall is measured on whole held-out images; its intervals are of a bootstrap over seeds
and pairs. A run that is done is not repeated: the same command goes on after a break, and a variant
that is new in configs/study.py is added. Writes plan.json, runs/ and report/ in --out.

With --quick: three masks, two seeds and short runs, which shows that it works and nothing else.
"""

import concurrent.futures
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

import input_pipeline
from benchmarks import common
from benchmarks.other_emoji import pictures
from benchmarks.study_plan import VERSION, Plan, open_plan
from benchmarks.study_results import report, run_path
from benchmarks.study_runs import POINTS, train_and_rank, variant_config
from configs.study import QUICK, VARIANTS
from pgs.errors import UserError, did_you_mean
from pgs.inference.masking import WHOLE
from pgs.utils import cli
from pgs.utils.console import progress_bar
from pgs.utils.files import write_whole

IS_QUICK = flags.DEFINE_bool('quick', False, 'Three masks, two seeds and 20 steps.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Number of seeds.', lower_bound=2)
DATA = flags.DEFINE_string('data', 'openmoji_scenes', 'Embedded data set: or openmoji, over white.')
ONLY = flags.DEFINE_list('only', [], f'Variants by comma, with {WHOLE}; by default all.')
WORKERS = flags.DEFINE_integer(
    'workers', 2, 'Runs at the same time, on a core or more each; 1.5 GiB of memory each.', 1
)
TOGETHER = flags.DEFINE_bool(
    'together',
    False,
    'Train all seeds of a variant at once: for a GPU, which one run does not fill.',
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Pairs of a step.', lower_bound=2)
STEPS = flags.DEFINE_integer('steps', 200, 'Steps of the model without a mask.', lower_bound=10)
SHIFTED = flags.DEFINE_string(
    'shifted',
    '',
    "Folder of another vendor's emoji to score as well, see benchmarks/other_emoji.py.",
)
OUT = flags.DEFINE_string('out', 'runs/study', 'Folder of the study.')
QUICK_BATCH, QUICK_STEPS = 32, 20

Key = tuple[str, int, int]  # variant, steps, seed of a run


def train(
    folder: Path, data: str, batch_size: int, shifted: Path | None, keys: Sequence[Key]
) -> None:
    """Trains runs that differ in their seeds alone, and writes their files."""
    configs = [
        variant_config(name, data=data, batch_size=batch_size, steps=steps, seed=seed)
        for name, steps, seed in keys
    ]
    paths = [run_path(folder, *key) for key in keys]
    found = train_and_rank(configs, folder / 'calibration' / paths[0].stem, shifted)
    jax.clear_caches()  # they have compiled programs of their own
    machine = common.machine()
    for path, (ranks, figures) in zip(paths, found, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = {key: values.tolist() for key, values in ranks.items()}
        content = {'version': VERSION, 'figures': figures, 'ranks': listed, 'machine': machine}
        write_whole(path, json.dumps(content).encode())  # on one line: the ranks are long


def grouped(keys: Iterable[Key], together: bool) -> list[list[Key]]:
    """Keys of runs that one call of `train` takes: each alone, or all seeds of a run together."""
    groups: dict[Any, list[Key]] = {}
    for key in keys:
        groups.setdefault(key[:2] if together else key, []).append(key)
    return list(groups.values())


def start_worker(cores: 'multiprocessing.Queue[set[int]]') -> None:
    """Takes cores of its own, before JAX starts its threads: two small steps side by side end
    sooner than one after the other on both cores. No worker takes all memory of a GPU."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    mine = cores.get()
    if mine and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, mine)
    input_pipeline.hide_accelerators_from_tensorflow()


def all_runs(
    folder: Path, plan: Plan, todo: list[list[Key]], workers: int, shifted: Path | None
) -> None:
    """Trains the groups of runs of a list, several at a time, with one display."""
    work = [sum(plan['variants'][k[0]]['flops_of_step'] * k[1] / 1e9 for k in g) for g in todo]
    workers = max(1, min(workers, len(todo), os.cpu_count() or 1))
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    context = multiprocessing.get_context('spawn')
    cores: multiprocessing.Queue[set[int]] = context.Queue()
    for number in range(workers):
        cores.put(set(available[number::workers]))
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=start_worker, initargs=(cores,)
    )
    with progress_bar(None, 'Study', ' GFLOP', round(sum(work))) as bar, pool:
        runs = {
            pool.submit(train, folder, plan['data'], plan['batch_size'], shifted, keys): number
            for number, keys in enumerate(todo)
        }
        try:
            for done in concurrent.futures.as_completed(runs):
                done.result()
                (name, steps, seed), *others = todo[runs[done]]
                seeds = f'seed {seed}' + (f' to {others[-1][-1]}' if others else '')
                bar.set_postfix_str(f'{name}, {steps} steps, {seeds} is done')
                bar.update(round(work[runs[done]]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def names_of_command() -> list[str]:
    """The variants that the flags ask for.

    Raises:
      UserError: an unknown variant, or no WHOLE among them.
    """
    names = ONLY.value or [*(QUICK if IS_QUICK.value else VARIANTS)]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise UserError(
            f'--only={unknown[0]} is unknown: {did_you_mean(unknown[0], VARIANTS)}'
            f'take some of {", ".join(VARIANTS)}'
        )
    if WHOLE not in names:
        raise UserError(f'--only needs {WHOLE}, to which the others are compared')
    return names


def main(argv: list[str]) -> None:
    del argv
    input_pipeline.hide_accelerators_from_tensorflow()
    names = names_of_command()
    seeds = list(range(2 if IS_QUICK.value else SEEDS.value))
    size, steps = BATCH_SIZE.value, STEPS.value
    if IS_QUICK.value:
        size, steps = QUICK_BATCH, QUICK_STEPS
    folder = Path(OUT.value)
    shifted = Path(SHIFTED.value) if SHIFTED.value else None
    if shifted is not None:
        pictures(shifted)  # a folder of none ends the command before anything is trained
    plan = open_plan(folder / 'plan.json', names, DATA.value, size, steps)
    keys = [
        (name, count, seed)
        for seed in seeds
        for name in names
        for count in sorted({plan['variants'][name]['steps'][point] for point in POINTS})
    ]
    todo = [key for key in keys if not run_path(folder, *key).exists()]
    print(f'{len(keys) - len(todo)} of {len(keys)} runs are done; the others follow', flush=True)
    all_runs(folder, plan, grouped(todo, TOGETHER.value), WORKERS.value, shifted)
    text = report(folder, plan, seeds)
    print(f'{text}\nWritten: {folder / "report"}')


if __name__ == '__main__':
    cli.run(main)
