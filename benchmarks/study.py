"""Trains a small model with every mask and several seeds, and compares what each mask is worth.

  python -m benchmarks.study [--quick] [--seeds=5] [--data=openmoji_scenes] [--only=none,random,pgs]

Masks are compared three times: at equal steps, at equal FLOPs of the matrix products and at equal
training seconds, by the time of a step that is measured in turns at the start. Each comparison has
runs of its own, with a learning rate that ends at zero. Recall is measured on whole held-out images;
its intervals are of a bootstrap over seeds and pairs. A run that is done is not repeated: the same
command goes on after a break. Writes plan.json, runs/ and report/ in --out.

With --quick: three masks, two seeds and short runs, which shows that it works and nothing else.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import input_pipeline
from benchmarks import common, study_report
from benchmarks.study_runs import POINTS, flops_a_step, train_and_rank, variant_config
from configs.study import QUICK, VARIANTS
from pgs.errors import UserError, did_you_mean
from pgs.inference.masking import WHOLE
from pgs.utils import cli
from pgs.utils.console import progress_bar
from pgs.utils.files import read_json, write_json

VERSION = 2  # of plan.json and the files of runs
IS_QUICK = flags.DEFINE_bool('quick', False, 'Three masks, two seeds and 20 steps.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Seeds, from 0 on.', lower_bound=2)
DATA = flags.DEFINE_string('data', 'openmoji_scenes', 'Embedded data set: or openmoji, over white.')
ONLY = flags.DEFINE_list('only', [], f'Variants by comma, with {WHOLE}; by default all.')
OUT = flags.DEFINE_string('out', 'runs/study', 'Folder of the study.')
BATCH, STEPS = 128, 200  # of the model without a mask
QUICK_BATCH, QUICK_STEPS = 32, 20
ROUNDS = 7  # of the time of a step


def step_seconds(names: list[str], data: str, batch_size: int) -> dict[str, float]:
    """Seconds of a mean step of each variant relative to WHOLE's: medians of rounds in turns."""
    programs: dict[str, Any] = {}
    shares: dict[str, float] = {}
    for name in progress_bar(names, 'Compiling the steps', ' variants', len(names)):
        config = variant_config(name, data=data, batch_size=batch_size, steps=1000, seed=0)
        programs[name], shares[name] = common.compiled_step(config), config.masking.until
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in progress_bar(range(ROUNDS + 1), 'Timing the steps', ' rounds', ROUNDS + 1):
        for name in names if number % 2 else reversed(names):
            step, state, batch = programs[name]
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
            programs[name] = step, state, batch
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times[WHOLE], strict=True))
        for name in names
    }
    return {name: shares[name] * r + 1.0 - shares[name] for name, r in ratios.items()}


def make_plan(names: list[str], data: str, batch_size: int, steps: int) -> dict[str, Any]:
    """What is run: see `open_plan`."""
    flops = {name: flops_a_step(name, data, batch_size) for name in names}
    seconds = step_seconds(names, data, batch_size)
    of_point = {
        'steps': dict.fromkeys(names, 1.0),
        'flops': {name: flops[WHOLE] / flops[name] for name in names},
        'seconds': {name: 1.0 / seconds[name] for name in names},
    }
    return fixed_part(names, data, batch_size, steps) | {
        'flops_of_step': flops,
        'seconds_of_step': seconds,
        'steps': {n: {p: round(steps * of_point[p][n]) for p in POINTS} for n in names},
        'machine': common.machine(),
    }


def fixed_part(names: list[str], data: str, batch_size: int, steps: int) -> dict[str, Any]:
    """What the command decides of a plan."""
    return {
        'version': VERSION,
        'data': data,
        'batch_size': batch_size,
        'steps_of_none': steps,
        'variants': {name: VARIANTS[name] for name in names},
    }


def open_plan(folder: Path, names: list[str], data: str, size: int, steps: int) -> dict[str, Any]:
    """The plan of a study, made once, so that its times are those of one moment.

    Raises:
      UserError: a plan of another command, of another version, or that cannot be read.
    """
    path = folder / 'plan.json'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        plan = make_plan(names, data, size, steps)
        write_json(path, plan)
        return plan
    try:
        plan = read_json(path)
        wanted = fixed_part(names, data, size, steps)
        different = [key for key in wanted if plan[key] != json.loads(json.dumps(wanted[key]))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path} is no plan of a study ({error}): give another --out') from error
    if different:
        raise UserError(
            f'{path} is of another study, it differs in {", ".join(different)}: give the same flags '
            'to go on, or another --out'
        )
    return plan


def run_path(folder: Path, name: str, steps: int, seed: int) -> Path:
    """The file of a run; points with the same number of steps share it."""
    return folder / 'runs' / f'{name}-{steps}-{seed}.json'


def one_run(folder: Path, plan: dict[str, Any], name: str, steps: int, seed: int) -> None:
    """Trains a run and writes its file."""
    config = variant_config(
        name, data=plan['data'], batch_size=plan['batch_size'], steps=steps, seed=seed
    )
    path = run_path(folder, name, steps, seed)
    ranks, figures = train_and_rank(config, folder / 'calibration' / path.stem)
    jax.clear_caches()  # each run has compiled its own programs
    path.parent.mkdir(exist_ok=True)
    listed = {key: values.tolist() for key, values in ranks.items()}
    write_json(path, {'version': VERSION, 'figures': figures, 'ranks': listed})


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


def report(folder: Path, plan: dict[str, Any], seeds: list[int]) -> str:
    """Writes the report of these seeds, all of whose runs are there; returns its tables."""
    hits: dict[str, dict[str, np.ndarray]] = {point: {} for point in POINTS}
    figures, records = {}, []
    for name in plan['variants']:
        for point in POINTS:
            steps = plan['steps'][name][point]
            runs = [read_run(run_path(folder, name, steps, seed)) for seed in seeds]
            hits[point][name] = np.stack([study_report.hits(run['ranks']) for run in runs])
            if point == 'steps':
                figures[name] = [run['figures'] for run in runs]
            for seed, run in zip(seeds, runs, strict=True):
                scores = {
                    f'{key} recall@5'.replace(' ', '_'): float(np.mean(ranks < study_report.K))
                    for key, ranks in run['ranks'].items()
                }
                record = {'variant': name, 'point': point, 'seed': seed, 'steps': steps}
                blank = dict.fromkeys(('masked_text_recall@5', 'masked_image_recall@5'), '')
                records.append(record | run['figures'] | blank | scores)
    rows = study_report.rows_of(hits)
    text = study_report.markdown(rows, plan, figures)
    study_report.write(folder / 'report', text, records, study_report.forest(rows))
    return text


def main(argv: list[str]) -> None:
    del argv
    input_pipeline.hide_accelerators_from_tensorflow()
    names = ONLY.value or list(QUICK if IS_QUICK.value else VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise UserError(
            f'--only={unknown[0]} is unknown: {did_you_mean(unknown[0], VARIANTS)}'
            f'take some of {", ".join(VARIANTS)}'
        )
    if WHOLE not in names:
        raise UserError(f'--only needs {WHOLE}, to which the others are compared')
    seeds = list(range(2 if IS_QUICK.value else SEEDS.value))
    size, steps = (QUICK_BATCH, QUICK_STEPS) if IS_QUICK.value else (BATCH, STEPS)
    folder = Path(OUT.value)
    plan = open_plan(folder, names, DATA.value, size, steps)
    todo = [
        (name, count, seed)
        for seed in seeds
        for name in names
        for count in sorted(set(plan['steps'][name].values()))
    ]
    work = {run: plan['flops_of_step'][run[0]] * run[1] for run in todo}
    left = [run for run in todo if not run_path(folder, *run).exists()]
    print(f'{len(todo) - len(left)} of {len(todo)} runs are done; the others follow', flush=True)
    with progress_bar(None, 'Study', ' GFLOP', round(sum(work[r] for r in left) / 1e9)) as bar:
        for name, count, seed in left:
            bar.set_postfix_str(f'{name}, {count} steps, seed {seed}')
            one_run(folder, plan, name, count, seed)
            bar.update(round(work[name, count, seed] / 1e9))
    print(f'{report(folder, plan, seeds)}\nWritten: {folder / "report"}')


if __name__ == '__main__':
    cli.run(main)
