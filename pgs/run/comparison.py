"""What the quickstart's mask saves and costs, in words, for the end of its run.

The figures are those of docs/compare.json, which `make compare` measured: the same run with other
masks. They are printed only after a run of this very config.
"""

import json
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import quickstart
from pgs.inference.masking import WHOLE
from pgs.run.workdir import FREE_KEYS

TABLE = Path(__file__).parents[2] / 'docs' / 'compare.json'  # absent in an installed package

Compared = dict[str, dict[str, float]]  # strategy -> figures of benchmarks.compare


def comparison_lines(config: ConfigDict, results: dict[str, Any]) -> list[str]:
    """Lines for the console; none where the run is not the quickstart's."""
    if not TABLE.is_file() or computed(config) != computed(quickstart.get_config()):
        return []
    compared: Compared = json.loads(TABLE.read_text())
    return words(compared, config.masking.strategy, results)


def computed(config: ConfigDict) -> dict[str, Any]:
    """The keys of a config that change what is computed, and their values."""
    flat = flatten_dict(config.to_dict(), sep='.')
    return {key: value for key, value in flat.items() if key not in FREE_KEYS}


def mean_recall(figures: dict[str, Any]) -> float:
    """Recall@5, mean of both directions."""
    return (figures['text_recall@5'] + figures['image_recall@5']) / 2


def words(compared: Compared, own: str, results: dict[str, Any]) -> list[str]:
    """The comparison in words.

    Args:
      compared: as compare.json.
      own: the strategy of this run, a key of `compared`.
      results: of this run, with scores.
    """
    lines = [f'This run finds {mean_recall(results):.1%} (recall@5, mean of both directions).']
    for name, figures in compared.items():
        if name == own:
            continue
        mask = 'Without a mask' if name == WHOLE else f'With the mask {name}'
        time = figures['seconds_per_step'] / compared[own]['seconds_per_step']
        recall = mean_recall(figures)
        lines.append(f'{mask} the same run takes {time:.2f} times as long and finds {recall:.1%}.')
    return [
        *lines,
        'The last lines are from the table in docs/masking.md; make compare repeats it.',
    ]
