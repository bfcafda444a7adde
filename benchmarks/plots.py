"""The benchmarks' results as bars, with whiskers from the smallest to the largest value."""

import matplotlib
from matplotlib.figure import Figure

matplotlib.rcParams['font.size'] = 9

Spread = dict[str, float]  # 'median', 'min' and 'max'
Panels = dict[str, dict[str, dict[str, Spread]]]  # title of a panel -> series -> label of a bar


def bars_figure(panels: Panels) -> Figure:
    """One panel beside the other; the bars of several series are grouped by their labels.

    Args:
      panels: see Panels. A panel with one series has no legend; the name of the series is not
        shown.
    """
    counts = [len(next(iter(series.values()))) for series in panels.values()]
    widths = [count + 1 for count in counts]
    figure = Figure(figsize=(1.1 * sum(widths), 3.4), layout='constrained')
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axis, (title, series), count in zip(axes, panels.items(), counts, strict=True):
        width = 0.8 / len(series)
        for i, (name, bars) in enumerate(series.items()):
            medians = [b['median'] for b in bars.values()]
            below = [b['median'] - b['min'] for b in bars.values()]
            above = [b['max'] - b['median'] for b in bars.values()]
            offset = (i - (len(series) - 1) / 2) * width
            drawn = axis.bar(
                [k + offset for k in range(count)],
                medians,
                width,
                yerr=[below, above],
                capsize=3,
                ecolor='0.3',
                label=name,
            )
            texts = [f'{m:#.3g}'.rstrip('.') if m < 1000 else f'{m:.0f}' for m in medians]
            axis.bar_label(drawn, texts, fontsize=7, padding=2)
        labels = [label.replace(' / ', ' /\n') for label in bars]
        axis.set_xticks(range(count), labels, rotation=30, ha='right', rotation_mode='anchor')
        axis.set_title(title)
        axis.margins(y=0.12)
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
        if len(series) > 1:
            axis.legend(fontsize=7)
    return figure
