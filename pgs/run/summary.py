"""The end of a run: results.json, figures, and the last lines on the console."""

from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from input_pipeline.sources import Records
from pgs.errors import UserError
from pgs.masking.starvation import RARELY
from pgs.models import CLIP
from pgs.run import figures
from pgs.run.comparison import comparison_lines
from pgs.run.held_out import MASKED, MASKED_NAMES, SCORE_NAMES, Scores
from pgs.run.masks import draw_masks, measure_retention
from pgs.run.metrics_file import NAME, read_metrics
from pgs.run.page import FILE, read_run, write_page
from pgs.run.starved import DRAWS, draw_starvation
from pgs.utils.files import write_json, writing


def finish(
    config: ConfigDict,
    model: CLIP,
    params: Any,
    source: Records,
    held_out: Records | None,
    scores: Scores,
    *,
    rate: float,
    workdir: epath.Path,
) -> dict[str, Any]:
    """Writes results.json, draws the figures and prints the summary.

    Args:
      config: as configs/base.py.
      model, params: the trained model; params on the host.
      source: training records, of which a few are drawn.
      held_out: the records of the scores, if the data set has any.
      scores: of the trained model on held-out pairs.
      rate: training pairs a second, 0 where this call trained nothing.
      workdir: folder of the run.

    Returns:
      The content of results.json.
    """
    records = read_metrics(workdir / 'metrics.jsonl')
    trained = [r for r in records if 'loss' in r]
    if not trained:
        raise UserError(
            f'{workdir / NAME} has no line of a training step: put the file back from a backup; '
            'python -m pgs.evaluate scores the run without it'
        )
    last = trained[-1]
    if not rate:
        rate = float(np.median([r['pairs_per_second'] for r in trained]))
    retention = measure_retention(config, model, params, held_out)
    results = {
        'step': last['step'],
        'loss': last['loss'],
        'pairs_per_second': rate,
        'mask_ratio_mean': float(np.mean([r['mask_ratio'] for r in trained])),
        **{name: scores[name] for name in SCORE_NAMES},
        **{name: scores[name] for name in MASKED_NAMES if name in scores},
        'object_retention': retention.share if retention else None,
        'object_retention_masked': retention.masked if retention else None,
        'object_retention_images': retention.images if retention else None,
    }
    with writing(
        f'{workdir}/results.json, figures/ and {FILE}', 'repair it and give the same command'
    ):
        drawn = workdir / 'figures'
        results['starved'] = draw_starvation(
            config, model, params, source, drawn / 'starvation.png'
        )
        write_json(workdir / 'results.json', results)
        draw_masks(config, model, params, source, drawn / 'masks.png')
        figures.save(figures.curves_figure(records), drawn / 'curves.png')
        write_page([read_run(workdir, lambda line: None)], workdir / FILE)
    print(
        '\n'.join([summary(results, records, workdir), *comparison_lines(config, results)]),
        flush=True,
    )
    return results


def summary(results: dict[str, Any], records: list[dict], workdir: epath.Path) -> str:
    """The last lines on the console."""
    lines = [
        '',
        f'Trained {results["step"]} steps at {results["pairs_per_second"]:.1f} pairs/s, '
        f'loss {results["loss"]:.3f}, {results["mask_ratio_mean"]:.1%} of the patches masked.',
    ]
    if results['object_retention'] is not None:
        masked = results['object_retention_masked']
        lines.append(
            f'Object retention with {masked:.0%} of the patches masked: '
            f'{results["object_retention"]:.2f} (random mask: {1 - masked:.2f}), '
            f'{results["object_retention_images"]}.'
        )
    if results['starved'] is not None:
        lines.append(
            f'Starved patches, seen in fewer than {RARELY:.0%} of {DRAWS} masks: '
            f'{results["starved"]:.1%}.'
        )
    if results['n_eval']:
        lines += held_out_lines(results, records)
    lines.append(f'Files in {workdir}: report.html for a browser, results.json, metrics.jsonl,')
    lines.append('  figures/, checkpoints/ (tensorboard --logdir reads the events there)')
    return '\n'.join(lines)


def held_out_lines(results: dict[str, Any], records: list[dict]) -> list[str]:
    """Recall of whole images, of masked ones if they were scored, at step 0 and by chance."""
    first = next((r for r in records if 'eval/chance@5' in r), {})
    masked = f'{MASKED}val_loss' in results
    headings = [*(['whole', 'masked'] if masked else ['now']), 'step 0', 'chance']
    lines = [
        f'Held out ({results["n_eval"]} pairs):'.ljust(23) + ''.join(map('{:>9}'.format, headings))
    ]
    for k in (1, 5):
        for direction in ('text', 'image'):
            key = f'{direction}_recall@{k}'
            shares = [results[key], *([results[MASKED + key]] if masked else [])]
            shares += [first.get(f'eval/{key}', float('nan')), results[f'chance@{k}']]
            lines.append(f'  {key}'.ljust(23) + ''.join(map('{:>9.1%}'.format, shares)))
    return lines
