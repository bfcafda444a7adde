"""The finished runs of benchmarks.study, and the report on them.

Shapes: S seeds, N held-out pairs.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import study_report
from benchmarks.study_plan import VERSION, Plan
from benchmarks.study_runs import POINTS
from configs.study import CHOICES
from pgs.errors import UserError
from pgs.utils.files import read_json


def run_path(folder: Path, name: str, steps: int, seed: int) -> Path:
    """The file of a run; points with the same number of steps share it."""
    return folder / 'runs' / f'{name}-{steps}-{seed}.json'


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
    folder: Path,
    plan: Plan,
    names: Iterable[str],
    point: str,
    seeds: Sequence[int],
    view: str = '',
) -> dict[str, np.ndarray]:
    """Variant -> hits of its runs at a point, (S, N); without variants that lack the view."""
    found = {}
    for name in names:
        steps = plan['variants'][name]['steps'][point]
        ranks = [read_run(run_path(folder, name, steps, seed))['ranks'] for seed in seeds]
        if all(f'{view}text' in of_run for of_run in ranks):
            found[name] = np.stack([study_report.hits(of_run, view) for of_run in ranks])
    return found


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
                device = run.get('machine', {}).get('device', '')
                records.append(record | run['figures'] | scores | {'device': device})
    rows = study_report.rows_of(hits)
    parts = [study_report.title(plan, hits['steps'])]
    parts.append(study_report.markdown(rows, plan, figures))
    for view, title in study_report.VIEWS.items():
        if seen := hits_at(folder, plan, names, 'flops', seeds, view):
            table = study_report.score_table(study_report.rows_of({'flops': seen}), plan, 'flops')
            parts.append(f'## Equal FLOPs, {title}\n\n{table}')
    if len(chosen := [name for name in CHOICES if name in names]) > 1:
        table = study_report.choice_table({n: hits['flops'][n] for n in chosen})
        parts.append(f'## Choice and confirmation, equal FLOPs\n\n{table}')
    text = '\n'.join(parts)
    study_report.write(folder / 'report', text, records, study_report.forest(rows))
    return text
