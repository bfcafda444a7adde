"""Our figures beside the published ones: a radar, or bars of what there is."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pgs.report.paper_tables import CLASSIFICATION, Table

RADAR_AXES = 5  # with fewer a polygon says less than bars
PUBLISHED_COLORS = ('#9aa7b1', '#c9b28f', '#a3bfa8', '#b9a4c4', '#8fb3d9', '#5b7fa8')
OUR_COLORS = ('#c1121f', '#e07a00', '#2b9348', '#7209b7')

matplotlib.rcParams['font.size'] = 9

Figures = dict[str, list[float | None]]


def plain(text: str) -> str:
    """Text for matplotlib: a dollar sign would start a formula."""
    return text.replace('$', r'\$')


def colors_of(names: list[str], ours: list[str]) -> dict[str, str]:
    published = [name for name in names if name not in ours]
    colors = {n: PUBLISHED_COLORS[i % len(PUBLISHED_COLORS)] for i, n in enumerate(published)}
    return colors | {n: OUR_COLORS[i % len(OUR_COLORS)] for i, n in enumerate(ours)}


def radar_figure(headings: list[str], figures: Figures, ours: list[str]) -> Figure:
    """One axis a set, from 0 to the best figure of any row, which stands at the rim.

    Args:
      headings: of the axes.
      figures: name -> percent, one an axis, None where there is none.
      ours: the names drawn strongly.
    """
    values = {n: np.array([np.nan if f is None else f for f in row]) for n, row in figures.items()}
    best = np.nanmax(list(values.values()), axis=0)
    angles = np.linspace(0, 2 * np.pi, len(headings), endpoint=False)
    figure = Figure(figsize=(8, 8), layout='constrained')
    axis = figure.add_subplot(projection='polar')
    axis.set(theta_offset=np.pi / 2, theta_direction=-1, ylim=(0, 1.04))
    colors = colors_of(list(figures), ours)
    for name, row in values.items():
        shares = row / best
        strong = name in ours
        # A set that was not scored leaves a gap; markers show a figure between two gaps.
        axis.plot(
            np.append(angles, angles[0]), np.append(shares, shares[0]), color=colors[name],
            lw=2.2 if strong else 1.2, marker='o' if strong else None, ms=4,
            zorder=3 if strong else 2, label=plain(name),
        )  # fmt: skip
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


def bars_figure(panels: dict[str, tuple[list[str], Figures]], ours: list[str]) -> Figure:
    """One panel below the other, a group of bars for each column.

    Args:
      panels: title -> (headings, name -> percent, one a heading, None where there is none).
      ours: the names drawn strongly.
    """
    widest = max(len(headings) for headings, _ in panels.values())
    rows = max(len(figures) for _, figures in panels.values())
    # Wide enough for the figures above the bars, yet no wider than a page shows.
    size = (min(max(0.16 * widest * (rows + 1.5), 6), 22), 3.1 * len(panels) + 0.5)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, (headings, figures)) in zip(axes, panels.items(), strict=True):
        colors = colors_of(list(figures), ours)
        width = 0.86 / len(figures)
        for i, (name, row) in enumerate(figures.items()):
            places = [k + (i - (len(figures) - 1) / 2) * width for k in range(len(headings))]
            # An absent figure is no bar at all, not one of height 0.
            drawn = axis.bar(
                places, [math.nan if f is None else f for f in row], width, color=colors[name],
                label=plain(name),
            )  # fmt: skip
            texts = ['-' if f is None else f'{f:.1f}' for f in row]
            axis.bar_label(drawn, texts, fontsize=6, padding=2, rotation=90)
        axis.set_xticks(range(len(headings)), [h.replace(' ', '\n') for h in headings])
        # One scale for all: bars of a short panel are no wider than those of a long one.
        axis.set(ylabel='percent', xlim=(-0.6, widest - 0.4))
        axis.set_title(title, loc='left')
        axis.margins(y=0.16)
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), 8))
    return figure


def comparison_figure(tables: list[tuple[Table, Figures]], ours: list[str]) -> Figure:
    """A radar where a row of ours has five zero-shot sets or more, else bars of what there is.

    Args:
      tables: with the figures of all rows, published and ours; one column of ours at least has one.
      ours: names of our rows.
    """
    panels = {}
    for table, figures in tables:
        shown = [
            k
            for k, column in enumerate(table.columns)
            if not column.is_mean and any(figures[name][k] is not None for name in ours)
        ]
        if not shown:
            continue
        headings = [table.columns[k].heading for k in shown]
        picked = {name: [row[k] for k in shown] for name, row in figures.items()}
        scored = [sum(f is not None for f in picked[name]) for name in ours]
        if table is CLASSIFICATION and max(scored) >= RADAR_AXES:
            return radar_figure(headings, picked, ours)
        panels[table.title] = (headings, picked)
    return bars_figure(panels, ours)
