"""The results.json files of `python -m pgs.evaluate`, checked, as rows of the paper's tables."""

import os
from typing import Any, NamedTuple

from pgs.config_table import shown
from pgs.errors import UserError
from pgs.report.paper_tables import RELATIVE_TRAINING_TIME, TABLES, Column, Table
from pgs.report.peers import ROW_NAMES, peer_rows
from pgs.utils.files import is_number, read_json, reason

AUTHORS = "(authors' weights)"  # after the name of such a row
OURS = '(ours)'  # after the name of another row, if a published one has the same


class Results(NamedTuple):
    """The content of one results.json.

    Attributes:
      path: as given.
      name: of the row; it says so where the weights are those of the paper's authors.
      checkpoint: the model that was scored; '' if the file does not name it.
      relative_training_time: training time relative to the unmasked CLIP; None if not measured.
      shares: (task, metric) -> share in [0, 1], for the tasks of the tables.
      other_tasks: tasks that no table shows.
    """

    path: str
    name: str
    checkpoint: str
    relative_training_time: float | None
    shares: dict[tuple[str, str], float]
    other_tasks: list[str]


def read_all(paths: list[str]) -> list[Results]:
    """Reads the files; every row gets a name of its own.

    Raises:
      UserError: a file that is not a results.json, two rows with the same name, or no task that a
        table shows.
    """
    rows: list[Results] = []
    for path in paths:
        results = read_results(path)
        if results.name in RELATIVE_TRAINING_TIME.keys() | ROW_NAMES:
            results = results._replace(name=f'{results.name} {OURS}')
        for earlier in rows:
            if earlier.name == results.name:
                raise UserError(
                    f'{earlier.path} and {path} are both named {results.name!r}: '
                    "change 'name' in one of them, or score it with another --name"
                )
        rows.append(results)
    if not any(results.shares for results in rows):
        raise UserError(
            f"{', '.join(paths)}: no task of the paper's tables was scored; "
            '`python -m pgs.evaluate --help` lists the tasks and where their data is stored'
        )
    return rows


def read_results(path: str) -> Results:
    """Reads and checks one results.json of `python -m pgs.evaluate`.

    Raises:
      UserError: a missing file, or content that evaluate does not write.
    """
    content = read_content(path)
    name = content.get('name')
    if not isinstance(name, str) or not name.split():
        raise UserError(f"{path} has no 'name' for its row: write one into it")
    name = ' '.join(name.split())
    authors = content.get('authors_weights', False)
    if not isinstance(authors, bool):
        raise UserError(f'{path}: authors_weights is {shown(authors)}: write true, or leave it out')
    if authors:
        name = f'{name} {AUTHORS}'
    relative = content.get('relative_training_time')
    if relative is not None and (not is_number(relative) or relative <= 0):
        raise UserError(
            f'{path}: relative_training_time is {shown(relative)}; it is a time divided by that of the '
            'unmasked run: write a number above 0, or leave it out'
        )
    needed = {(task, c.metric) for table in TABLES for c in table.columns for task in c.tasks}
    shares = {}
    for task, metric in sorted(needed):
        share = read_share(path, content['tasks'], task, metric)
        if share is not None:
            shares[task, metric] = share
    other_tasks = sorted(content['tasks'].keys() - {task for task, _ in needed})
    checkpoint = str(content.get('checkpoint') or '')
    return Results(path, name, checkpoint, relative, shares, other_tasks)


def read_content(path: str) -> dict[str, Any]:
    """The JSON object of a results file, which has 'tasks'."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(
            f'cannot read {path} ({why}): give a results.json of `python -m pgs.evaluate`'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get('tasks'), dict):
        run = os.path.dirname(path) or '.'
        raise UserError(
            f"{path} has no 'tasks': main.py writes a results.json without them into a run's "
            f'folder; score it with `python -m pgs.evaluate --checkpoint={run}` and give the file '
            'that this writes'
        )
    return content


def read_share(path: str, tasks: dict[str, Any], task: str, metric: str) -> float | None:
    """One metric of one task, in [0, 1]; None if it was not scored."""
    entry = tasks.get(task)
    if entry is None:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get('metrics'), dict):
        raise UserError(f"{path}: {task} has no 'metrics': score it again, or take it out")
    share = entry['metrics'].get(metric)
    if metric in entry['metrics'] and not (is_number(share) and 0 <= share <= 1):
        raise UserError(
            f'{path}: {metric} of {task} is {shown(share)}, no share from 0 to 1: score it again'
        )
    return share


def percentages(table: Table, results: list[Results]) -> dict[str, list[float | None]]:
    """Name of a row -> percent, one value for each column; the published rows come first."""
    paper: dict[str, list[float | None]] = {name: list(row) for name, row in table.rows.items()}
    return (
        paper
        | peer_rows(table)
        | {r.name: [percent(column, r) for column in table.columns] for r in results}
    )


def percent(column: Column, results: Results) -> float | None:
    """A row's value in a column; None if one of the column's sets was not scored."""
    shares = [results.shares.get((task, column.metric)) for task in column.tasks]
    scored = [share for share in shares if share is not None]
    return 100 * sum(scored) / len(scored) if len(scored) == len(shares) else None


def count_sets(table: Table, results: Results) -> tuple[int, int]:
    """How many of a table's sets were scored, and how many the table has."""
    tasks = {task for column in table.columns for task in column.tasks}
    return len(tasks & {task for task, _ in results.shares}), len(tasks)
