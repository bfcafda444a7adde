"""Trains a small model with every mask and several seeds, and compares what each mask is worth.

  python -m benchmarks.study [--quick|--choose] [--seeds=5] [--data=openmoji_scenes] [--only=none,random,pgs]

Masks are compared three times: at equal steps, at equal FLOPs of the matrix products and at equal
training seconds, by the time of a step that is measured in turns at the start. Each comparison has
runs of its own, with a learning rate that ends at zero; numbers of steps that differ by up to 10 %
share one. Recall is measured on whole held-out images; its intervals are of a bootstrap over seeds
and pairs. A run that is done is not repeated: the same command goes on after a break, and a variant
that is new in configs/study.py is added. Writes plan.json, runs/ and report/ in --out.

With --choose: only the masks that CHOICES of configs/study.py names, at equal FLOPs, with seeds from
100 on and half of the held-out pairs. What is chosen by it, the study confirms with other seeds and
the other half (report/study.md, "Confirmation").

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
import numpy as np
from absl import flags

import input_pipeline
from benchmarks import study_report
from benchmarks.study_plan import VERSION, Plan, open_plan
from benchmarks.study_runs import POINTS, train_and_rank, variant_config
from configs.study import CHOICES, QUICK, VARIANTS
from pgs.errors import UserError, did_you_mean
from pgs.inference.masking import WHOLE
from pgs.utils import cli
from pgs.utils.console import progress_bar
from pgs.utils.files import read_json, write_whole

IS_QUICK = flags.DEFINE_bool('quick', False, 'Three masks, two seeds and 20 steps.')
IS_CHOICE = flags.DEFINE_bool('choose', False, 'Compare CHOICES on seeds and pairs of their own.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Number of seeds.', lower_bound=2)
DATA = flags.DEFINE_string('data', 'openmoji_scenes', 'Embedded data set: or openmoji, over white.')
ONLY = flags.DEFINE_list('only', [], f'Variants by comma, with {WHOLE}; by default all.')
WORKERS = flags.DEFINE_integer(
    'workers', 2, 'Runs at the same time, on a core or more each; 1.5 GiB of memory each.', 1
)
OUT = flags.DEFINE_string('out', 'runs/study', 'Folder of the study.')
BATCH, STEPS = 128, 200  # of the model without a mask
QUICK_BATCH, QUICK_STEPS = 32, 20
CHOICE_SEED = 100  # the first seed of --choose
CHOSEN_ON, CONFIRMED_ON = slice(0, None, 2), slice(1, None, 2)  # held-out pairs

Key = tuple[str, int, int]  # variant, steps, seed of a run


def run_path(folder: Path, name: str, steps: int, seed: int) -> Path:
    """The file of a run; points with the same number of steps share it."""
    return folder / 'runs' / f'{name}-{steps}-{seed}.json'


def one_run(folder: Path, data: str, batch_size: int, key: Key) -> None:
    """Trains a run and writes its file."""
    name, steps, seed = key
    config = variant_config(name, data=data, batch_size=batch_size, steps=steps, seed=seed)
    path = run_path(folder, *key)
    ranks, figures = train_and_rank(config, folder / 'calibration' / path.stem)
    jax.clear_caches()  # each run has compiled its own programs
    path.parent.mkdir(exist_ok=True)
    listed = {key: values.tolist() for key, values in ranks.items()}
    content = {'version': VERSION, 'figures': figures, 'ranks': listed}
    write_whole(path, json.dumps(content).encode())  # on one line: the ranks are long


def start_worker(cores: 'multiprocessing.Queue[set[int]]') -> None:
    """Takes cores of its own, before JAX starts its threads: two small steps side by side end
    sooner than one after the other on both cores."""
    mine = cores.get()
    if mine and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, mine)
    input_pipeline.hide_accelerators_from_tensorflow()


def all_runs(folder: Path, plan: Plan, todo: list[Key], workers: int) -> None:
    """Trains the runs of a list, several at a time, with one display."""
    work = {k: plan['variants'][k[0]]['flops_of_step'] * k[1] / 1e9 for k in todo}
    workers = max(1, min(workers, len(todo), os.cpu_count() or 1))
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    context = multiprocessing.get_context('spawn')
    cores: multiprocessing.Queue[set[int]] = context.Queue()
    for number in range(workers):
        cores.put(set(available[number::workers]))
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=start_worker, initargs=(cores,)
    )
    with progress_bar(None, 'Study', ' GFLOP', round(sum(work.values()))) as bar, pool:
        runs = {
            pool.submit(one_run, folder, plan['data'], plan['batch_size'], key): key for key in todo
        }
        try:
            for done in concurrent.futures.as_completed(runs):
                done.result()
                name, steps, seed = runs[done]
                bar.set_postfix_str(f'{name}, {steps} steps, seed {seed} is done')
                bar.update(round(work[runs[done]]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_run(path: Path) -> dict[str, Any]:
    """The content of a run's file.

    Raises:
      UserError: a file that is damaged or of another version.
    """
    try:
        content = read_json(path)
        if content['version'] != VERSION:
            raise ValueError(f'its version is {content["version"]}')
        content['ranks'] = {key: np.array(v) for key, v in content['ranks'].items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path} is no run of this study ({error}): delete it') from error
    return content


def hits_at(
    folder: Path, plan: Plan, names: Iterable[str], point: str, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Variant -> hits of its runs at a point, (S, N)."""

    def hits(name: str, seed: int) -> np.ndarray:
        steps = plan['variants'][name]['steps'][point]
        return study_report.hits(read_run(run_path(folder, name, steps, seed))['ranks'])

    return {name: np.stack([hits(name, seed) for seed in seeds]) for name in names}


def subset_report(
    folder: Path, plan: Plan, names: Sequence[str], seeds: Sequence[int], pairs: slice
) -> str:
    """A table at equal FLOPs of some variants on a part of the held-out pairs."""
    hits = hits_at(folder, plan, names, 'flops', seeds)
    part = {name: values[:, pairs] for name, values in hits.items()}
    return study_report.score_table(study_report.rows_of({'flops': part}), plan, 'flops')


def report(folder: Path, plan: Plan, seeds: Sequence[int]) -> str:
    """Writes the report of these seeds, all of whose runs are there; returns its tables."""
    names = list(plan['variants'])
    hits = {point: hits_at(folder, plan, names, point, seeds) for point in POINTS}
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    records = []
    for name in names:
        for point, steps in plan['variants'][name]['steps'].items():
            for seed in seeds:
                run = read_run(run_path(folder, name, steps, seed))
                if point == 'steps':
                    figures[name].append(run['figures'])
                scores = {
                    f'{key} recall@5'.replace(' ', '_'): float(np.mean(ranks < study_report.K))
                    for key, ranks in run['ranks'].items()
                }
                record = {'variant': name, 'point': point, 'seed': seed, 'steps': steps}
                blank = dict.fromkeys(('masked_text_recall@5', 'masked_image_recall@5'), '')
                records.append(record | run['figures'] | blank | scores)
    rows = study_report.rows_of(hits)
    text = study_report.markdown(rows, plan, figures)
    if chosen := [name for name in names if name in CHOICES]:
        table = subset_report(folder, plan, [WHOLE, *chosen], seeds, CONFIRMED_ON)
        text += f'\n### Confirmation, equal FLOPs, the pairs that --choose leaves out\n\n{table}'
    study_report.write(folder / 'report', text, records, study_report.forest(rows))
    return text


def names_of_command() -> list[str]:
    """The variants that the flags ask for.

    Raises:
      UserError: an unknown variant, or no WHOLE among them.
    """
    usual = [*QUICK] if IS_QUICK.value else [WHOLE, *CHOICES] if IS_CHOICE.value else [*VARIANTS]
    names = ONLY.value or usual
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
    if IS_QUICK.value and IS_CHOICE.value:
        raise UserError('--quick and --choose exclude each other: give one of them')
    names = names_of_command()
    first = CHOICE_SEED if IS_CHOICE.value else 0
    seeds = list(range(first, first + (2 if IS_QUICK.value else SEEDS.value)))
    size, steps = (QUICK_BATCH, QUICK_STEPS) if IS_QUICK.value else (BATCH, STEPS)
    folder = Path(OUT.value)
    plan = open_plan(folder / 'plan.json', names, DATA.value, size, steps)
    points = ('flops',) if IS_CHOICE.value else tuple(POINTS)
    keys = [
        (name, count, seed)
        for seed in seeds
        for name in names
        for count in sorted({plan['variants'][name]['steps'][point] for point in points})
    ]
    todo = [key for key in keys if not run_path(folder, *key).exists()]
    print(f'{len(keys) - len(todo)} of {len(keys)} runs are done; the others follow', flush=True)
    all_runs(folder, plan, todo, WORKERS.value)
    if IS_CHOICE.value:
        text = subset_report(folder, plan, names, seeds, CHOSEN_ON)
        write_whole(folder / 'report' / 'choice.md', text.encode())
    else:
        text = report(folder, plan, seeds)
    print(f'{text}\nWritten: {folder / "report"}')


if __name__ == '__main__':
    cli.run(main)
