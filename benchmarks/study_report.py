"""Statistics, tables and plots of benchmarks.study.

Shapes: S seeds, N held-out pairs, R resamples. A score is the mean over both directions of the
share of pairs that are found among the first five, recall@5.
"""

import csv
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.study_runs import POINTS
from configs.study import BASELINES
from pgs.inference.masking import WHOLE
from pgs.utils.files import write_whole

K = 5
RESAMPLES = 10_000
LEVEL = 0.95
# Prefix of the names of ranks, beside whole held-out images -> what is scored.
VIEWS = {
    'masked ': 'images masked as in training',
    'shifted ': "another vendor's emoji, whole images",
}
Hits = np.ndarray  # float (S, N): for each pair the mean of both directions, 0, 0.5 or 1


class Interval(NamedTuple):
    """A mean and the bounds of its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.mean:.1%} ({self.low:.1%} to {self.high:.1%})'

    def points(self) -> str:
        """A difference in percentage points."""
        return f'{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})'


def hits(ranks: Mapping[str, np.ndarray], view: str = '') -> np.ndarray:
    """float (N,), from the ranks of a run; on whole images, or in another view of VIEWS."""
    return np.mean([ranks[f'{view}{side}'] < K for side in ('text', 'image')], axis=0)


@functools.cache
def draws(seeds: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each pair is drawn: int (R, S) and (R, N)."""
    rng = np.random.default_rng(0)
    return tuple(rng.multinomial(n, np.full(n, 1.0 / n), RESAMPLES) for n in (seeds, pairs))


def resampled(values_SxN: Hits) -> np.ndarray:
    """(R,): means over seeds and pairs that are drawn with replacement, both at once.

    The same draws for arrays of the same shape, so that differences of two are those of paired data.
    """
    seeds_RxS, pairs_RxN = draws(*values_SxN.shape)
    return (seeds_RxS @ values_SxN * pairs_RxN).sum(axis=1) / values_SxN.size


def interval(values_SxN: Hits) -> Interval:
    """The mean, and the bootstrap's 95 % interval by percentiles."""
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(resampled(values_SxN), [tail, 100.0 - tail])
    return Interval(float(values_SxN.mean()), float(low), float(high))


def rows_of(hits_by_point: Mapping[str, Mapping[str, Hits]]) -> list[dict[str, Any]]:
    """One row for each point and variant: its score, and its differences to BASELINES.

    Args:
      hits_by_point: point -> variant -> hits of the same seeds and pairs; holds WHOLE.
    """
    rows = []
    for point, variants in hits_by_point.items():
        for name, values in variants.items():
            row: dict[str, Any] = {'point': point, 'variant': name, 'score': interval(values)}
            for other in BASELINES:
                if other in variants and other != name:
                    row[f'minus {other}'] = interval(values - variants[other])
            rows.append(row)
    return rows


def title(plan: Mapping[str, Any], hits: Mapping[str, Hits]) -> str:
    """What the tables are of."""
    seeds, pairs = hits[WHOLE].shape
    return (
        f'# Tables of a study\n\nData `{plan["data"]}`, batch {plan["batch_size"]}, '
        f'{plan["steps_of_none"]} steps without a mask, {seeds} seeds, {pairs} held-out pairs. '
        'Recall@5 is the mean of both directions; in brackets the 95 % interval. Differences are '
        'in percentage points, of the same seeds and pairs.\n'
    )


def choice_table(hits: Mapping[str, Hits]) -> str:
    """Differences to the first variant on two parts of the seeds and pairs that share none.

    A variant that is best on the first part by chance is not so on the second.
    """
    reference, *others = hits
    seeds = len(hits[reference]) // 2
    parts = {
        'choice': (slice(None, seeds), slice(0, None, 2)),
        'confirmation': (slice(seeds, None), slice(1, None, 2)),
        'all': (slice(None), slice(None)),
    }
    lines = [['variant', *(f'minus {reference}, {name}' for name in parts)]]
    for other in others:
        differences = hits[other] - hits[reference]
        lines.append([other, *(interval(differences[part]).points() for part in parts.values())])
    note = f'Choice: the first {seeds} seeds and every other pair; confirmation: the rest of both.'
    return f'{markdown_table(lines)}\n{note}\n'


def markdown(rows: list[dict[str, Any]], plan: Mapping[str, Any], figures: Mapping) -> str:
    """A table of the costs and masks of the variants, and one of the scores for each point.

    Args:
      rows: of rows_of.
      plan: of the study.
      figures: variant -> figures of its runs at equal steps, as `train_and_rank` returns them.
    """
    parts = [cost_table(plan, figures)]
    for point in POINTS:
        table = score_table([row for row in rows if row['point'] == point], plan, point)
        parts.append(f'## Equal {POINTS[point]}\n\n{table}')
    return '\n'.join(parts)


def score_table(rows: list[dict[str, Any]], plan: Mapping[str, Any], point: str) -> str:
    """The scores of one point's rows, and their differences to BASELINES that are among them."""
    keys = [key for key in (f'minus {other}' for other in BASELINES) if any(key in r for r in rows)]
    lines = [['variant', 'steps', 'recall@5', *keys]]
    for row in rows:
        differences = [row[key].points() if key in row else '' for key in keys]
        steps = str(plan['variants'][row['variant']]['steps'][point])
        lines.append([row['variant'], steps, str(row['score']), *differences])
    return markdown_table(lines)


def cost_table(plan: Mapping[str, Any], figures: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """What a step costs relative to one without a mask, and what the masks do, means over seeds."""

    def mean(name: str, key: str, form: str) -> str:
        values = [f[key] for f in figures[name] if f[key] is not None]
        return format(np.mean(values), form) if values else ''

    lines = [['variant', 'FLOPs', 'time', 'masked', 'objects kept', 'starved']]
    decided = plan['variants']
    for name in figures:
        lines.append(
            [
                name,
                f'{decided[name]["flops_of_step"] / decided[WHOLE]["flops_of_step"]:.2f}',
                f'{decided[name]["seconds_of_step"]:.2f}',
                mean(name, 'masked', '.0%'),
                mean(name, 'retention', '.2f'),
                mean(name, 'starved', '.1%'),
            ]
        )
    return f'## Costs and masks\n\n{markdown_table(lines)}'


def markdown_table(lines: list[list[str]]) -> str:
    """Rows of cells, the first one the heading; all columns but the first are aligned to the right."""
    rule = ['---', *['---:'] * (len(lines[0]) - 1)]
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in [lines[0], rule, *lines[1:]])


def forest(rows: list[dict[str, Any]]) -> Figure:
    """Differences to the model without a mask, with their intervals, one panel for each point."""
    others = len({row['variant'] for row in rows}) - 1
    figure = Figure(figsize=(4 * len(POINTS), 1.2 + 0.3 * others), layout='constrained')
    panels = figure.subplots(1, len(POINTS), sharey=True)
    for axis, point in zip(panels, POINTS, strict=True):
        shown = [r for r in rows if r['point'] == point and f'minus {WHOLE}' in r][::-1]
        middle = 100 * np.array([r[f'minus {WHOLE}'].mean for r in shown])
        bounds = 100 * np.array([r[f'minus {WHOLE}'][1:] for r in shown])
        error = np.abs(bounds.T - middle)
        axis.errorbar(middle, range(len(shown)), xerr=error, fmt='o', capsize=3)
        axis.axvline(0.0, color='grey', linewidth=1)
        axis.set_yticks(range(len(shown)), [r['variant'] for r in shown])
        axis.set_ylim(-0.7, len(shown) - 0.3)
        axis.set_title(f'equal {POINTS[point]}')
        axis.set_xlabel('recall@5 minus that of no mask, points')
    return figure


def raw_csv(records: list[dict[str, Any]]) -> str:
    """One line for each run."""
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(buffer, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def write(folder: Path, text: str, records: list[dict[str, Any]], figure: Figure) -> None:
    """Writes study.md, study.csv and study.png."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format='png', dpi=150)
    write_whole(folder / 'study.md', text.encode())
    write_whole(folder / 'study.csv', raw_csv(records).encode())
    write_whole(folder / 'study.png', drawn.getvalue())
