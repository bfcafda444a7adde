"""report.html: one self-contained page about one run or several; nothing is loaded from elsewhere.

Every run writes its own page; `python -m pgs.report RUN RUN` puts several beside each other.
"""

import base64
import os
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

from etils import epath
from flax.traverse_util import flatten_dict

from pgs.errors import UserError
from pgs.run.metrics_file import NAME, read_metrics
from pgs.run.page_curves import curves_svg
from pgs.utils.files import absolute, read_json, read_small, write_whole, writing

FILE = 'report.html'
ABSENT = '–'
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --soft: #161b22; } }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .2rem .6rem; text-align: left; }
td + td, th + th { text-align: right; } th { background: var(--soft); }
svg, img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
img { background: #ffffff; border-radius: 4px; } summary { cursor: pointer; }
"""


class Run(NamedTuple):
    """What a page shows of a run.

    Attributes:
      name: of its folder; for runs whose folders have the same name, the path as given.
      metrics: records of metrics.jsonl.
      results: content of results.json; {} where it is absent.
      config: key with dots -> value; {} where config.json is absent.
      environment: of its last start; {} where environment.json is absent.
      masks, starvation: figures/masks.png and starvation.png; None where absent.
    """

    name: str
    metrics: list[dict[str, Any]]
    results: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    masks: bytes | None
    starvation: bytes | None


def read_run(folder: str | os.PathLike, say: Callable[[str], None]) -> Run:
    """Reads what there is of a run; `say` is told of each part that is missing or damaged.

    Raises:
      UserError: a folder that holds neither metrics nor results of a run.
    """
    root = absolute(folder)

    def content(file: str) -> dict[str, Any]:
        try:
            found = read_json(root / file)
        except FileNotFoundError:
            say(f'note: {folder} has no {file}')
            return {}
        except (OSError, ValueError) as error:
            say(f'warning: {root / file} is left out: {str(error).splitlines()[0]}')
            return {}
        if not isinstance(found, dict):
            say(f'warning: {root / file} is left out: it is no JSON object')
            return {}
        return found

    metrics, results = read_metrics(root / NAME), content('results.json')
    if not metrics and not results:
        raise UserError(f'{folder} is no run: it has neither a line in {NAME} nor a results.json')

    def figure(file: str) -> bytes | None:
        try:
            return read_small(root / 'figures' / file)
        except (OSError, ValueError):
            return None

    masks, starvation = figure('masks.png'), figure('starvation.png')
    if masks is None:
        say(f'note: {folder} has no figures/masks.png')
    starts = content('environment.json').get('starts')
    last = starts[-1] if isinstance(starts, list) and starts else {}
    config = flatten_dict(content('config.json'), sep='.')
    last = last if isinstance(last, dict) else {}
    return Run(root.name, metrics, results, config, last, masks, starvation)


def read_runs(folders: Sequence[str], say: Callable[[str], None]) -> list[Run]:
    """Reads runs, each with a name of its own; one that is none is left out, with a warning.

    Raises:
      UserError: none of the folders is a run.
    """
    runs = {}
    for folder in folders:
        try:
            runs[folder] = read_run(folder, say)
        except UserError as error:
            say(f'warning: {error}')
    if not runs:
        raise UserError(f'{", ".join(folders)}: no folder of a run')
    names = [run.name for run in runs.values()]
    return [
        run._replace(name=folder) if names.count(run.name) > 1 else run
        for folder, run in runs.items()
    ]


def page(runs: Sequence[Run]) -> str:
    """The page as HTML. All texts of the runs are escaped."""
    title = escape(', '.join(run.name for run in runs))
    curves = curves_svg({run.name: run.metrics for run in runs})
    names = [run.name for run in runs]
    parts = [
        f'<h1>{title}</h1>',
        section('Curves', f'<figure>{curves}</figure>'),
        section('Scores', table(names, [run.results for run in runs])),
        section('Masks', ''.join(mask_figures(run) for run in runs)),
        section('Config', config_part(names, [run.config for run in runs])),
        section('Environment', environment_part(names, [run.environment for run in runs])),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + '\n'.join(parts)
        + '\n</body>\n</html>\n'
    )


def section(title: str, content: str) -> str:
    """A part of the page with its heading."""
    return f'<section>\n<h2>{title}</h2>\n{content}\n</section>'


def table(names: Sequence[str], columns: Sequence[dict[str, Any]]) -> str:
    """A row for each key of the columns, in their order."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    if not keys:
        return '<p>There is none.</p>'
    head = ''.join(f'<th>{escape(name)}</th>' for name in ['', *names])
    rows = ''.join(
        f'<tr><td>{escape(key)}</td>'
        + ''.join(f'<td>{escape(text_of(column.get(key)))}</td>' for column in columns)
        + '</tr>\n'
        for key in keys
    )
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}</table></div>'


def text_of(value: Any) -> str:
    """A value of a JSON file for a reader."""
    if value is None:
        return ABSENT
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def mask_figures(run: Run) -> str:
    """The masks of a run, and where they starve patches, as images within the page."""
    name = escape(run.name)
    if run.masks is None:
        return f'<p>{name}: no figure of masks.</p>'
    shown = embedded(f'{name}: what each strategy leaves visible', run.masks)
    if run.starvation is not None:
        shown += embedded(f'{name}: how often its own mask shows each patch', run.starvation)
    return shown


def embedded(caption: str, png: bytes) -> str:
    """An image within the page; the caption is HTML."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f'<figcaption>{caption}</figcaption></figure>'
    )


def config_part(names: Sequence[str], configs: Sequence[dict[str, Any]]) -> str:
    """What differs between the runs, then all of it, folded."""
    differing = {
        key
        for config in configs
        for key in config
        if any(other.get(key) != config[key] for other in configs)
    }
    shown = [{k: v for k, v in config.items() if k in differing} for config in configs]
    first = f'<p>What differs:</p>{table(names, shown)}' if len(configs) > 1 else ''
    return f'{first}<details><summary>All keys</summary>{table(names, configs)}</details>'


def environment_part(names: Sequence[str], environments: Sequence[dict[str, Any]]) -> str:
    """Machine, program and data of each run; the packages are folded."""
    plain = [{k: v for k, v in e.items() if k not in ('packages', 'config')} for e in environments]
    packages = [p if isinstance(p := e.get('packages'), dict) else {} for e in environments]
    folded = f'<details><summary>Packages</summary>{table(names, packages)}</details>'
    return table(names, plain) + folded


def write_page(runs: Sequence[Run], path: epath.Path) -> None:
    """Replaces a page.

    Raises:
      UserError: it cannot be written.
    """
    with writing(os.fspath(path)):
        write_whole(path, page(runs).encode())
