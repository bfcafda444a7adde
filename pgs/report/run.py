"""Reads results files, writes the report as Markdown and as a figure, and returns it as text."""

import io
import os

from etils import epath

from pgs.errors import UserError
from pgs.report.figures import comparison_figure
from pgs.report.paper_tables import TABLES
from pgs.report.results import Results, count_sets, percentages, read_all
from pgs.report.tables import Grid, build_grid, markdown_escape, markdown_text, terminal_text
from pgs.utils.files import absolute, write_whole, writing

SOURCE = (
    'Figures in percent. First the rows of Pei et al., CVPR 2025, arXiv 2503.17080, as published '
    '(ViT-B/16, CC12M, 32 epochs), then those of other papers, with a numbered note each, then those '
    "of our evaluations; (authors' weights): of weights that the paper's authors published."
)
BEST = 'Bold: the best of its column, ties included, of the rows that have it.'


def report(paths: list[str], markdown: str | None, figure: str | None, width: int | None) -> str:
    """Writes the report's two files and returns the text that the command prints.

    Args:
      paths: results.json files, at least one.
      markdown, figure: paths of the two files; None: report.md and report.png beside the first
        results file.
      width: of a terminal that shows bold text; None: no line breaks and no bold text.

    Raises:
      UserError: an input that is not a results.json, or an output that cannot be written.
    """
    results = read_all(paths)
    markdown_path = output_path(markdown, '--markdown', paths[0], '.md')
    figure_path = output_path(figure, '--figure', paths[0], '.png')
    grids = [grid for table in TABLES if (grid := build_grid(table, results))]
    write(figure_path, figure_png(results), '--figure')
    same_folder = figure_path.parent == markdown_path.parent
    link = figure_path.name if same_folder else os.fspath(figure_path)
    write(markdown_path, markdown_page(grids, results, link).encode(), '--markdown')
    foot = [
        SOURCE,
        *([BEST] if width else []),
        *remarks(results),
        f'Files: {markdown_path}, {figure_path}',
    ]
    tables = [terminal_text(grid, width, bold=width is not None) for grid in grids]
    return '\n\n'.join([*tables, '\n'.join(foot)])


def output_path(given: str | None, flag: str, beside: str, ending: str) -> epath.Path:
    """The path of an output file.

    Args:
      given: value of the flag; None: report.ENDING beside another file.
      flag: its name, for the message.
      beside: the first results file, or a file in the folder of a run.
      ending: '.md', '.png' or '.html'.

    Raises:
      UserError: a path with another ending, which may be an input given to the flag by mistake.
    """
    path = absolute(given) if given else absolute(beside).parent / f'report{ending}'
    if path.suffix != ending:
        raise UserError(f'{flag}={given} must end in {ending}')
    return path


def figure_png(results: list[Results]) -> bytes:
    """The comparison figure as an encoded PNG."""
    tables = [(table, percentages(table, results)) for table in TABLES]
    image = io.BytesIO()
    comparison_figure(tables, [r.name for r in results]).savefig(image, dpi=150, format='png')
    return image.getvalue()


def markdown_page(grids: list[Grid], results: list[Results], link: str) -> str:
    """The report as Markdown; `link` is the path of the figure."""
    sections = ['# Comparison with the paper', f'{SOURCE} {BEST}', *map(markdown_text, grids)]
    sections.append('\n'.join(f'- {markdown_escape(line)}' for line in remarks(results)))
    sections.append(f'![Our figures beside the published ones](<{link}>)')
    return '\n\n'.join(sections) + '\n'


def remarks(results: list[Results]) -> list[str]:
    """A line for each omitted table, each checkpoint, and each row with tasks that no table has."""
    lines = [
        f'{table.title}: left out, none of its sets was scored.'
        for table in TABLES
        if not any(count_sets(table, r)[0] for r in results)
    ]
    lines += [f'{r.name}: {r.checkpoint or "checkpoint unknown"} ({r.path})' for r in results]
    lines += [
        f'{r.name}, in no table: {", ".join(r.other_tasks)}' for r in results if r.other_tasks
    ]
    return lines


def write(path: epath.Path, content: bytes, flag: str) -> None:
    """Replaces a file; UserError if it cannot be written."""
    with writing(os.fspath(path), f'give another {flag}'):
        write_whole(path, content)
