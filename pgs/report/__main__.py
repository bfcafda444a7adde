"""Prints the paper's tables with our rows below those of its methods; best figures in bold.

  python -m pgs.report results.json [...]
  python -m pgs.report A/results.json B/results.json --markdown=both.md --figure=both.png

The files are those of `python -m pgs.evaluate`, one row each. A set that was not scored is '-',
and so is a mean that needs it. Also writes the tables as Markdown, and a figure: a radar of the
zero-shot classification sets where a row has five of them or more, else bars of what there is.
"""

import io
import os
import re
import shutil
import sys
from typing import NamedTuple

from absl import flags
from etils import epath

from pgs.errors import UserError
from pgs.report.figures import comparison_figure
from pgs.report.paper_tables import CLASSIFICATION, RELATIVE_TRAINING_TIME, TABLES, Table
from pgs.report.results import Results, count_sets, figures_of, read_all
from pgs.utils import cli
from pgs.utils.files import absolute, replacing

MARKDOWN = flags.DEFINE_string('markdown', None, 'FILE.md; else report.md beside the first file.')
FIGURE = flags.DEFINE_string('figure', None, 'FILE.png; else report.png beside the first file.')

SOURCE = (
    'Figures in percent. First the rows of Pei et al., CVPR 2025, arXiv 2503.17080, as published '
    '(ViT-B/16, CC12M, 32 epochs), then ours.'
)
BEST = 'Bold: the best of its column, ties included, of the rows that have it.'


class Cell(NamedTuple):
    text: str
    is_best: bool = False


class Grid(NamedTuple):
    """A table as it is shown: Cells, the row's name first; `published` rows, then ours."""

    title: str
    headings: list[str]
    rows: list[list[Cell]]
    published: int
    notes: list[str]


def cells_of(figures: list[float | None]) -> list[Cell]:
    """A column as shown: one decimal, the highest marked, alike ones all."""
    texts = ['-' if figure is None else f'{figure:.1f}' for figure in figures]
    best = max((float(text) for text in texts if text != '-'), default=None)
    return [Cell(text, text != '-' and float(text) == best) for text in texts]


def build_grid(table: Table, everything: list[Results]) -> Grid | None:
    """The table with our rows, None where none of ours has a figure in it."""
    present = {r.name: count_sets(table, r) for r in everything}
    if not any(count for count, _ in present.values()):
        return None
    figures = figures_of(table, everything)
    columns = [[Cell(name) for name in figures]]
    headings = ['method']
    if table is CLASSIFICATION:
        times = RELATIVE_TRAINING_TIME | {r.name: r.relative_training_time for r in everything}
        # Not marked: the shortest time is no merit where nothing was learnt.
        columns.append([Cell('-' if t is None else f'{t:.1f}') for t in times.values()])
        headings.append('R.T.T.')
    columns += [cells_of(list(column)) for column in zip(*figures.values(), strict=True)]
    headings += [column.heading for column in table.columns]
    means = '; a mean stands where all of its sets do' if table.columns[-1].is_mean else ''
    notes = [
        f'{name} has {count} of {total} sets{means}.'
        for name, (count, total) in present.items()
        if count < total
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Grid(table.title, headings, rows, len(table.rows), notes)


def terminal_text(grid: Grid, width: int | None, bold: bool) -> str:
    """The grid as text.

    Args:
      width: characters of a line; columns that do not fit go below. None: all side by side.
      bold: mark the best figures by ANSI codes.
    """
    # Each word of a heading has a line, the last one just above the figures.
    words = [heading.split() for heading in grid.headings]
    height = max(len(w) for w in words)
    head = [[Cell(w) for w in line] for line in zip(
        *([''] * (height - len(w)) + w for w in words), strict=True
    )]  # fmt: skip
    lines = head + grid.rows
    widths = [max(len(line[i].text) for line in lines) for i in range(len(words))]
    blocks, used = [[]], widths[0]
    for i in range(1, len(widths)):
        if width and blocks[-1] and used + 2 + widths[i] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(i)
        used += 2 + widths[i]
    texts = [grid.title]
    for block in blocks:
        rule = '-' * (widths[0] + sum(2 + widths[i] for i in block))
        for number, line in enumerate(lines):
            if number in (height, height + grid.published):
                texts.append(rule)
            text = line[0].text.ljust(widths[0])
            for i in block:
                padded = line[i].text.rjust(widths[i])
                text += '  ' + (f'\x1b[1m{padded}\x1b[0m' if bold and line[i].is_best else padded)
            texts.append(text)
        texts.append('')
    return '\n'.join([*texts[:-1], *grid.notes])


def markdown_escape(text: str) -> str:
    return re.sub(r'([\\`*_<>\[\]|])', r'\\\1', text)


def markdown_text(grid: Grid) -> str:
    """The grid as a section with a table, best figures as **x**."""
    rows = [
        ' | '.join(
            f'**{cell.text}**' if cell.is_best else markdown_escape(cell.text) for cell in row
        )
        for row in grid.rows
    ]
    align = ['---'] + ['---:'] * (len(grid.headings) - 1)
    table = [f'| {line} |' for line in (' | '.join(grid.headings), ' | '.join(align), *rows)]
    notes = [line for note in grid.notes for line in ('', markdown_escape(note))]
    return '\n'.join([f'## {grid.title}', '', *table, *notes])


def remarks(everything: list[Results]) -> list[str]:
    """A line for each table left out, for what each row is, and for tasks that no table has."""
    lines = [
        f'{table.title}: left out, none of its sets was scored.'
        for table in TABLES
        if not any(count_sets(table, r)[0] for r in everything)
    ]
    lines += [f'{r.name}: {r.checkpoint or "checkpoint not said"} ({r.path})' for r in everything]
    lines += [f'{r.name}, in no table: {", ".join(r.others)}' for r in everything if r.others]
    return lines


def write(path: epath.Path, content: bytes, flag: str) -> None:
    """Replaces a file; UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f'cannot write {path} ({reason}): give another {flag}') from error


def output_path(given: str | None, flag: str, beside: str, ending: str) -> epath.Path:
    """Where an output goes; a wrong ending would be an input given to the flag by mistake."""
    path = absolute(given) if given else absolute(beside).parent / f'report{ending}'
    if path.suffix != ending:
        raise UserError(f'{flag}={given} must end in {ending}')
    return path


def report(paths: list[str], markdown: str | None, figure: str | None, width: int | None) -> str:
    """The text that the command prints; writes the Markdown and the figure.

    Args:
      paths: results.json files, at least one.
      markdown, figure: where to write; None: beside the first file.
      width: of a terminal that shows bold; None: neither wrap nor mark.

    Raises:
      UserError: a file that is no results.json, or an output that cannot be written.
    """
    everything = read_all(paths)
    markdown_path = output_path(markdown, '--markdown', paths[0], '.md')
    figure_path = output_path(figure, '--figure', paths[0], '.png')
    grids = [grid for table in TABLES if (grid := build_grid(table, everything))]
    drawn = comparison_figure(
        [(table, figures_of(table, everything)) for table in TABLES], [r.name for r in everything]
    )
    image = io.BytesIO()
    drawn.savefig(image, dpi=150, format='png')
    write(figure_path, image.getvalue(), '--figure')
    beside = figure_path.parent == markdown_path.parent
    link = figure_path.name if beside else os.fspath(figure_path)
    sections = ['# Comparison with the paper', f'{SOURCE} {BEST}', *map(markdown_text, grids)]
    sections.append('\n'.join(f'- {markdown_escape(line)}' for line in remarks(everything)))
    sections.append(f'![Our figures beside the published ones](<{link}>)')
    write(markdown_path, ('\n\n'.join(sections) + '\n').encode(), '--markdown')
    shown = [terminal_text(grid, width, bold=width is not None) for grid in grids]
    foot = [
        SOURCE,
        *([BEST] if width else []),
        *remarks(everything),
        f'Files: {markdown_path}, {figure_path}',
    ]
    return '\n\n'.join([*shown, '\n'.join(foot)])


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        sys.exit('error: no results file\nusage: python -m pgs.report results.json [...]')
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    try:
        print(report(argv[1:], MARKDOWN.value, FIGURE.value, width))
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    cli.run(main)
