"""A run compared with a second one of the same config: environment, data, and metrics bit by bit."""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from pgs.errors import UserError
from pgs.run.metrics import read_metrics
from pgs.run.provenance import read_starts

MEASURED = ('pairs_per_second',)  # by a clock: differs from run to run


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config of a run's config.json.

    Raises:
      UserError: not a run's folder.
    """
    path = workdir / 'config.json'
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError('not a config')
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path} ({error}): give the folder of a run') from error
    return ConfigDict(with_tuples(content))


def with_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were in the config."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def environment_differences(first: epath.Path, second: epath.Path) -> list[str]:
    """What differs between the first starts of two runs: 'NAME: THERE there, HERE here'."""
    recorded = [read_starts(folder) for folder in (first, second)]
    if not all(recorded):
        return [f'{first} has no record of its environment']
    flat = [flattened({k: v for k, v in starts[0].items() if k != 'time'}) for starts in recorded]
    there, here = flat
    return [
        f'{name}: {there.get(name, "(none)")} there, {here.get(name, "(none)")} here'
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and not name.startswith('config.')
    ]


def flattened(value: Any, prefix: str = '') -> dict[str, Any]:
    """Nested mappings and lists as {'a.b.0': value}."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    joined = ((f'{prefix}.{key}' if prefix else key, item) for key, item in items)
    return {k: v for name, item in joined for k, v in flattened(item, name).items()}


def metric_differences(
    first: epath.Path, second: epath.Path, last_step: int
) -> tuple[int, list[str]]:
    """Compares the metrics of two runs up to a step, bit by bit.

    Returns:
      (lines compared, differences in words).
    """
    there, here = (lines_by_step(folder, last_step) for folder in (first, second))
    different = [
        f'step {step}, {name}: {there[step].get(name)!r} there, {here[step].get(name)!r} here'
        for step in sorted(there.keys() & here.keys())
        for name in sorted(there[step].keys() | here[step].keys())
        if there[step].get(name) != here[step].get(name)
    ]
    different += [
        f'step {step}: logged {"there" if step in there else "here"} only'
        for step in sorted(there.keys() ^ here.keys())
    ]
    return len(there.keys() & here.keys()), different


def lines_by_step(workdir: epath.Path, last_step: int) -> dict[int, dict[str, float]]:
    """What metrics.jsonl has of each training step up to last_step, without what a clock measured."""
    return {
        record['step']: {k: v for k, v in record.items() if k not in MEASURED}
        for record in read_metrics(workdir / 'metrics.jsonl')
        if 'loss' in record and record['step'] <= last_step
    }
