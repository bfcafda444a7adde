"""Our results beside the published ones: a radar, or bars if there are too few sets for a radar."""

import math

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pgs.report.paper_tables import CLASSIFICATION, Table

RADAR_AXES = 5  # a polygon with fewer corners is harder to read than bars
# fmt: off
PUBLISHED_COLORS = (
    '#9aa7b1', '#c9b28f', '#a3bfa8', '#b9a4c4', '#8fb3d9', '#5b7fa8', '#d4a5a5', '#7d8f69', '#6b6b6b',
)
# fmt: on
LEGEND_WIDTH = 1.4  # inches that the name of a row takes
OUR_COLORS = ('#c1121f', '#e07a00', '#2b9348', '#7209b7')

matplotlib.rcParams['font.size'] = 9

Percentages = dict[str, list[float | None]]  # name of a row -> one value for each column


def comparison_figure(tables: list[tuple[Table, Percentages]], ours: list[str]) -> Figure:
    """A radar if a row of ours has at least five zero-shot sets, otherwise bars of all sets.

    Args:
      tables: with the values of all rows, published and ours; at least one column has a value of
        ours.
      ours: names of our rows.
    """
    panels: dict[str, tuple[list[str], Percentages]] = {}
    for table, values in tables:
        scored = [
            k
            for k, column in enumerate(table.columns)
            if not column.is_mean and any(values[name][k] is not None for name in ours)
        ]
        if not scored:
            continue
        headings = [table.columns[k].heading for k in scored]
        shown = {name: [row[k] for k in scored] for name, row in values.items()}
        # A published row without a figure of these sets is left out.
        shown = {n: row for n, row in shown.items() if n in ours or any(v is not None for v in row)}
        most = max(sum(value is not None for value in shown[name]) for name in ours)
        if table is CLASSIFICATION and most >= RADAR_AXES:
            return radar_figure(headings, shown, ours)
        panels[table.title] = (headings, shown)
    return bars_figure(panels, ours)


def radar_figure(headings: list[str], values: Percentages, ours: list[str]) -> Figure:
    """One axis for each set, from 0 to the best value of any row, which is drawn at the rim.

    Args:
      headings: of the axes.
      values: one for each axis, None if a set was not scored.
      ours: names of the rows that are drawn with strong lines.
    """
    rows = {n: np.array([np.nan if v is None else v for v in row]) for n, row in values.items()}
    best = np.nanmax(list(rows.values()), axis=0)
    angles = np.linspace(0, 2 * np.pi, len(headings), endpoint=False)
    figure = Figure(figsize=(8, 8), layout='constrained')
    axis = figure.add_subplot(projection='polar')
    axis.set(theta_offset=np.pi / 2, theta_direction=-1, ylim=(0, 1.04))
    colors = row_colors(list(rows), ours)
    for name, row in rows.items():
        shares = row / best
        strong = name in ours
        # A set that was not scored leaves a gap; markers show a value between two gaps.
        style = {'lw': 2.2, 'marker': 'o', 'zorder': 3} if strong else {'lw': 1.2, 'zorder': 2}
        closed = np.append(angles, angles[0]), np.append(shares, shares[0])
        axis.plot(*closed, color=colors[name], ms=4, label=plain_text(name), **style)
        if strong and not np.isnan(shares).any():
            axis.fill(angles, shares, color=colors[name], alpha=0.08)
    labels = [f'{h}\n{b:.1f}' for h, b in zip(headings, best, strict=True)]
    axis.set_xticks(angles, labels)
    axis.tick_params(axis='x', pad=12)
    axis.set_yticks([0.25, 0.5, 0.75, 1], [])
    axis.grid(alpha=0.35)
    axis.spines['polar'].set_visible(False)
    axis.set_title(
        f'{CLASSIFICATION.title}: share of the best figure (at the rim, percent)', pad=20
    )
    figure.legend(*axis.get_legend_handles_labels(), loc='outside lower center', ncols=5)
    return figure


def bars_figure(panels: dict[str, tuple[list[str], Percentages]], ours: list[str]) -> Figure:
    """One panel below the other, with a group of bars for each column.

    Args:
      panels: title -> (headings, values), one value for each heading, None if it was not scored.
      ours: names of the rows that are drawn in strong colors.
    """
    widest = max(len(headings) for headings, _ in panels.values())
    most_rows = max(len(values) for _, values in panels.values())
    # Wide enough for the numbers above the bars, but no wider than a page can show.
    size = (min(max(0.16 * widest * (most_rows + 1.5), 6), 22), 3.1 * len(panels) + 0.5)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    names = dict.fromkeys(name for _, values in panels.values() for name in values)
    colors = row_colors([*(n for n in names if n not in ours), *ours], ours)
    shown: dict[str, Artist] = {}  # label -> handle; not every row is in every panel
    for axis, (title, (headings, values)) in zip(axes, panels.items(), strict=True):
        draw_bars(axis, values, colors)
        handles, labels = axis.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
        axis.set_xticks(range(len(headings)), [h.replace(' ', '\n') for h in headings])
        # The same scale for all panels, so that all bars have the same width.
        axis.set(ylabel='percent', xlim=(-0.6, widest - 0.4))
        axis.set_title(title, loc='left')
        axis.margins(y=0.16)
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
    ordered = [label for name in colors if (label := plain_text(name)) in shown]
    figure.legend(
        [shown[label] for label in ordered],
        ordered,
        loc='outside lower center',
        ncols=min(len(ordered), int(size[0] / LEGEND_WIDTH)),
    )
    return figure


def draw_bars(axis: Axes, values: Percentages, colors: dict[str, str]) -> None:
    """A bar for each row in the group of each column, with its value above it."""
    width = 0.86 / len(values)
    for i, (name, row) in enumerate(values.items()):
        offset = (i - (len(values) - 1) / 2) * width
        # A missing value has no bar, rather than a bar of height 0.
        bars = axis.bar(
            [k + offset for k in range(len(row))],
            [math.nan if value is None else value for value in row],
            width,
            color=colors[name],
            label=plain_text(name),
        )
        texts = ['-' if value is None else f'{value:.1f}' for value in row]
        axis.bar_label(bars, texts, fontsize=6, padding=2, rotation=90)


def row_colors(names: list[str], ours: list[str]) -> dict[str, str]:
    """Muted colors for the published rows, strong colors for ours."""
    published = [name for name in names if name not in ours]
    colors = {n: PUBLISHED_COLORS[i % len(PUBLISHED_COLORS)] for i, n in enumerate(published)}
    return colors | {n: OUR_COLORS[i % len(OUR_COLORS)] for i, n in enumerate(ours)}


def plain_text(text: str) -> str:
    """Text for matplotlib, in which a dollar sign would start a formula."""
    return text.replace('$', r'\$')
