"""What `python -m pgs.evaluate` wrote, checked, as rows of the paper's tables."""

import json
import math
import os
from typing import NamedTuple

from etils import epath

from pgs.errors import UserError
from pgs.report.paper_tables import RELATIVE_TRAINING_TIME, TABLES, Column, Table


class Results(NamedTuple):
    """What one results.json says.

    Attributes:
      path: as given.
      name: of the row.
      checkpoint: what was scored, '' where the file does not say.
      relative_training_time: time over that of the unmasked CLIP, None where not measured.
      shares: (task, metric) -> a figure in [0, 1], of those that the tables show.
      others: tasks that no table shows.
    """

    path: str
    name: str
    checkpoint: str
    relative_training_time: float | None
    shares: dict[tuple[str, str], float]
    others: list[str]


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_results(path: str) -> Results:
    """Reads and checks one results.json of `python -m pgs.evaluate`.

    Raises:
      UserError: no such file, or one that does not hold what evaluate writes.
    """
    try:
        content = json.loads(epath.Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise UserError(
            f'cannot read {path} ({reason}): give a results.json of `python -m pgs.evaluate`'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get('tasks'), dict):
        run = os.path.dirname(path) or '.'
        raise UserError(
            f"{path} has no 'tasks': main.py writes such a results.json into a run's folder; score "
            f'it with `python -m pgs.evaluate --checkpoint={run}` and give the file of that'
        )
    name = content.get('name')
    if not isinstance(name, str) or not name.split():
        raise UserError(f"{path} has no 'name' for its row: write one into it")
    relative = content.get('relative_training_time')
    if relative is not None and (not is_number(relative) or relative <= 0):
        raise UserError(
            f'{path}: relative_training_time is {relative!r}; it is a time over that of the '
            'unmasked run: write a number above 0, or leave it out'
        )
    used = {(task, c.metric) for table in TABLES for c in table.columns for task in c.tasks}
    shares = {}
    for task, metric in sorted(used):
        entry = content['tasks'].get(task)
        if entry is None:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get('metrics'), dict):
            raise UserError(f"{path}: {task} has no 'metrics': score it again, or take it out")
        share = entry['metrics'].get(metric)
        if metric in entry['metrics'] and not (is_number(share) and 0 <= share <= 1):
            raise UserError(
                f'{path}: {metric} of {task} is {share!r}, no share from 0 to 1: score it again'
            )
        if share is not None:
            shares[task, metric] = share
    others = sorted(content['tasks'].keys() - {task for task, _ in used})
    checkpoint = str(content.get('checkpoint') or '')
    return Results(path, ' '.join(name.split()), checkpoint, relative, shares, others)


def read_all(paths: list[str]) -> list[Results]:
    """Reads the files and names each row so that no two are called the same.

    Raises:
      UserError: a file that is no results.json, two of one name, or nothing that a table shows.
    """
    everything = []
    for path in paths:
        results = read_results(path)
        if results.name in RELATIVE_TRAINING_TIME:
            results = results._replace(name=f'{results.name} (ours)')
        for earlier in everything:
            if earlier.name == results.name:
                raise UserError(
                    f'{earlier.path} and {path} are both named {results.name!r}: '
                    "change 'name' in one of them, or score it with another --name"
                )
        everything.append(results)
    if not any(results.shares for results in everything):
        raise UserError(
            f"{', '.join(paths)}: no task of the paper's tables was scored; "
            '`python -m pgs.evaluate --help` says which there are and where their data goes'
        )
    return everything


def percent(column: Column, results: Results) -> float | None:
    """The column's figure in percent, None where a set that it needs was not scored."""
    shares = [results.shares.get((task, column.metric)) for task in column.tasks]
    return None if None in shares else 100 * sum(shares) / len(shares)


def figures_of(table: Table, everything: list[Results]) -> dict[str, list[float | None]]:
    """Name -> figures in percent, one a column; the published rows first."""
    ours = {r.name: [percent(column, r) for column in table.columns] for r in everything}
    return {name: list(row) for name, row in table.rows.items()} | ours


def count_sets(table: Table, results: Results) -> tuple[int, int]:
    """How many of the table's sets were scored, and how many there are."""
    tasks = {task for column in table.columns for task in column.tasks}
    return len(tasks & {task for task, _ in results.shares}), len(tasks)
