"""Curves of one run or several as an SVG picture within a page, readable on light and on dark."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pgs.run.metrics_file import SCORE
from pgs.utils.files import is_number

PANELS = (  # key of metrics.jsonl, title
    ('loss', 'loss (InfoNCE)'),
    (f'{SCORE}text_recall@5', 'held-out text recall@5'),
    (f'{SCORE}image_recall@5', 'held-out image recall@5'),
    ('mask_ratio', 'masked fraction'),
    ('learning_rate', 'learning rate'),
    ('pairs_per_second', 'pairs a second'),
)
COLUMNS = 3
MAX_POINTS = 400  # of a curve: more cannot be told apart, and make the page large
INK = '#0a0b0c'  # stands for the page's text colour, which the page knows
STYLE: dict[Any, Any] = {
    'font.size': 9,
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'clip-pgs',  # the same picture for the same numbers
    **dict.fromkeys(
        ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color'), INK
    ),
}


def curves_svg(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One panel a quantity, one line a run.

    Args:
      runs: name -> records of its metrics.jsonl.

    Returns:
      An <svg> element; a panel without numbers says so.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.2), layout='constrained')
        axes = figure.subplots(len(PANELS) // COLUMNS, COLUMNS)
        for axis, (key, title) in zip(axes.flat, PANELS, strict=True):
            draw_panel(axis, key, runs)
            axis.set_title(title)
            axis.set_xlabel('step')
            axis.grid(alpha=0.25)
        if len(runs) > 1:
            # Without parse_math, text between dollar signs would be read as a formula.
            legend = figure.legend(
                *axes.flat[0].get_legend_handles_labels(), loc='outside lower left'
            )
            for text in legend.get_texts():
                text.set_parse_math(False)
            legend.get_frame().set_alpha(0.0)
        file = io.StringIO()
        figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
    svg = file.getvalue()
    return svg[svg.index('<svg') :].replace(INK, 'currentColor')


def draw_panel(axis: Axes, key: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """The values of a key over the steps, of each run that has some."""
    drawn = False
    for number, (name, records) in enumerate(runs.items()):
        points = thinned([(r['step'], r[key]) for r in records if is_number(r.get(key))])
        steps, values = zip(*points, strict=True) if points else ((), ())
        marker = 'o' if len(points) < 30 else ''
        axis.plot(steps, values, color=f'C{number % 10}', marker=marker, ms=3, lw=1.2, label=name)
        drawn |= bool(points)
    if not drawn:
        axis.text(0.5, 0.5, 'not measured', ha='center', transform=axis.transAxes)


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about MAX_POINTS of the points, evenly, with the last one."""
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    return points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])
