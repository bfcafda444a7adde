"""A table of the paper with our rows, as text for a terminal and as Markdown."""

import re
import textwrap
from typing import NamedTuple

from pgs.report.paper_tables import CLASSIFICATION, RELATIVE_TRAINING_TIME, Table
from pgs.report.peers import peers_of
from pgs.report.results import Results, count_sets, percentages

MARKDOWN_SPECIAL = re.compile(r'([\\`*_<>\[\]|])')


class Cell(NamedTuple):
    text: str
    is_best: bool = False


class Grid(NamedTuple):
    """The cells of a table.

    Attributes:
      title: of the table.
      headings: of the columns; the first one is that of the row names.
      rows: the published rows, then ours; the first cell of a row is its name.
      published: number of published rows.
      footnotes: of the published rows that have a number.
      notes: one sentence for each row of ours that lacks a set.
    """

    title: str
    headings: list[str]
    rows: list[list[Cell]]
    published: int
    footnotes: list[str]
    notes: list[str]


def column_cells(values: list[float | None]) -> list[Cell]:
    """Percentages with one decimal; all cells that show the highest value are marked as best."""
    texts = ['-' if value is None else f'{value:.1f}' for value in values]
    best = max((float(text) for text in texts if text != '-'), default=None)
    return [Cell(text, text != '-' and float(text) == best) for text in texts]


def build_grid(table: Table, results: list[Results]) -> Grid | None:
    """The cells of a table with our rows; None if none of our rows has a value in it."""
    scored = {r.name: count_sets(table, r) for r in results}
    if not any(count for count, _ in scored.values()):
        return None
    values = percentages(table, results)
    columns = [[Cell(name) for name in values]]
    headings = ['method']
    if table is CLASSIFICATION:
        known = RELATIVE_TRAINING_TIME | {r.name: r.relative_training_time for r in results}
        times = [known.get(name) for name in values]
        # No best one is marked: a short time is worth nothing if the model learned nothing.
        columns.append([Cell('-' if t is None else f'{t:.1f}') for t in times])
        headings.append('R.T.T.')
    columns += [column_cells(list(column)) for column in zip(*values.values(), strict=True)]
    headings += [column.heading for column in table.columns]
    means = (
        '; a mean is given only if all of its sets were scored' if table.columns[-1].is_mean else ''
    )
    footnotes = [peer.note for peer in peers_of(table)]
    notes = [
        f'{name} has {count} of {total} sets{means}.'
        for name, (count, total) in scored.items()
        if count < total
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Grid(table.title, headings, rows, len(rows) - len(results), footnotes, notes)


def terminal_text(grid: Grid, width: int | None, bold: bool) -> str:
    """The grid as text.

    Args:
      grid: the table.
      width: characters of a line; columns that do not fit follow below, with the row names again.
        None: no limit.
      bold: mark the best values by ANSI codes.
    """
    head = heading_lines(grid.headings)
    lines = head + grid.rows
    rules = (len(head), len(head) + grid.published)  # above the published rows and above ours
    widths = [max(len(cell.text) for cell in column) for column in zip(*lines, strict=True)]
    texts = [grid.title]
    for block in split_columns(widths, width):
        for number, line in enumerate(lines):
            if number in rules:
                texts.append('-' * (widths[0] + sum(2 + widths[i] for i in block)))
            cells = [bold_text(line[i], widths[i], bold) for i in block]
            texts.append('  '.join([line[0].text.ljust(widths[0]), *cells]))
        texts.append('')
    notes = [*grid.footnotes, *grid.notes]
    return '\n'.join([*texts[:-1], *(textwrap.fill(n, width) if width else n for n in notes)])


def heading_lines(headings: list[str]) -> list[list[Cell]]:
    """One word of each heading on each line; the last words are on the last line."""
    words = [heading.split() for heading in headings]
    height = max(len(w) for w in words)
    padded = [[''] * (height - len(w)) + w for w in words]
    return [[Cell(word) for word in line] for line in zip(*padded, strict=True)]


def split_columns(widths: list[int], width: int | None) -> list[list[int]]:
    """Indices of the columns of each block, so that a block with the row names fits the width."""
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for i in range(1, len(widths)):
        if width and blocks[-1] and used + 2 + widths[i] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(i)
        used += 2 + widths[i]
    return blocks


def bold_text(cell: Cell, width: int, bold: bool) -> str:
    """The text of a cell, right-aligned; bold if it is the best and `bold` is set."""
    text = cell.text.rjust(width)
    return f'\x1b[1m{text}\x1b[0m' if bold and cell.is_best else text


def markdown_escape(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r'\\\1', text)


def markdown_text(grid: Grid) -> str:
    """The grid as a Markdown section with a table; the best values are **bold**."""

    def cell_text(cell: Cell) -> str:
        return f'**{cell.text}**' if cell.is_best else markdown_escape(cell.text)

    align = ['---'] + ['---:'] * (len(grid.headings) - 1)
    rows = [[cell_text(cell) for cell in row] for row in grid.rows]
    table = [f'| {" | ".join(line)} |' for line in (grid.headings, align, *rows)]
    notes = [line for n in (*grid.footnotes, *grid.notes) for line in ('', markdown_escape(n))]
    return '\n'.join([f'## {grid.title}', '', *table, *notes])
