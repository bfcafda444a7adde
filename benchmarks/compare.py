"""Trains one config under several masks, at equal steps, and compares what each is worth.

  python -m benchmarks.compare --strategies=none,random,pgs [--config=FILE] [--config.KEY=VALUE ...]

The runs go to runs/compare/NAME and are resumed, so that the same command continues after a break.
Prints a table and writes runs/compare/compare.json. One seed each: differences of a few points
between two runs can be chance (docs/masking.md).
"""

import json
import math
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import input_pipeline
from benchmarks import common
from pgs.errors import UserError
from pgs.run.comparison import mean_recall
from pgs.train import train
from pgs.utils import cli
from pgs.utils.console import format_seconds
from pgs.utils.files import write_json

CONFIG = config_flags.DEFINE_config_file('config', None, 'File with get_config().')
STRATEGIES = flags.DEFINE_list('strategies', [], 'Names of masks, by comma.')
OUT = flags.DEFINE_string('out', 'runs/compare', 'Folder of the runs and of compare.json.')
HEAD = ['mask', 'loss', 'text R@5', 'image R@5', 'mean', 'masked', 's/step', 'training', 'time']


def row(name: str, figures: dict[str, float], first: dict[str, float]) -> list[str]:
    """One run of the table; its time is relative to the first run's."""
    return [
        name,
        f'{figures["loss"]:.3f}',
        f'{figures["text_recall@5"]:.1%}',
        f'{figures["image_recall@5"]:.1%}',
        f'{mean_recall(figures):.1%}',
        f'{figures["mask_ratio_mean"]:.1%}',
        f'{figures["seconds_per_step"]:.3f}',
        format_seconds(figures['seconds_per_step'] * figures['step']),
        f'{figures["seconds_per_step"] / first["seconds_per_step"]:.2f}',
    ]


def figures_of(results: dict, batch_size: int) -> dict[str, float]:
    """What compare.json holds of a run."""
    recalls = {key: results[key] or math.nan for key in ('text_recall@5', 'image_recall@5')}
    return recalls | {
        'seconds_per_step': batch_size / results['pairs_per_second'],
        'loss': results['loss'],
        'mask_ratio_mean': results['mask_ratio_mean'],
        'step': results['step'],
    }


def main(argv: list[str]) -> None:
    del argv
    if not STRATEGIES.value:
        raise UserError('--strategies is missing: name masks by comma, the baseline first')
    input_pipeline.hide_accelerators_from_tensorflow()
    folder = Path(OUT.value)
    compared: dict[str, dict[str, float]] = {}
    for number, name in enumerate(STRATEGIES.value, 1):
        print(f'[{number}/{len(STRATEGIES.value)}] mask {name}', flush=True)
        config = CONFIG.value.copy_and_resolve_references()
        config.masking.strategy = name
        finished = folder / name / 'results.json'
        if finished.exists():  # keeps the time that it measured
            results = json.loads(finished.read_text())
        else:
            results = train(config, folder / name)
        compared[name] = figures_of(results, config.batch_size)
        write_json(folder / 'compare.json', compared)
    first = next(iter(compared.values()))
    rows = [row(name, figures, first) for name, figures in compared.items()]
    print(f'\n{common.table(HEAD, rows)}\n\nWritten: {folder / "compare.json"}')


if __name__ == '__main__':
    cli.run(main, cli.config_parser(CONFIG, str(cli.CONFIGS / 'quickstart.py')))
