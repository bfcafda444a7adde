"""report.json of a prepared data set, and what of it is shown on the console."""

import collections
import shlex
from typing import Any

from input_pipeline import records
from input_pipeline.validate import REASONS

SHOWN_CUTS = 10  # damaged shards on the console


def summed(
    reports: list[dict[str, Any]],
    reasons: collections.Counter[str],
    missing: list[str],
    share: float | None,
) -> dict[str, Any]:
    """The content of report.json, of the reports of all shards; see `finish`."""
    result = {
        'present': sum(r['present'] for r in reports),
        'kept': sum(r['kept'] for r in reports),
        'dropped': sum(reasons.values()),
        'dropped_by_reason': dict(sorted(reasons.items())),
        'shards': len(reports),
        'missing_shards': missing,
        'cut_shards': [r['cut'] for r in reports if r['cut']],
        'members': sum(r['members'] for r in reports),
        'ignored_members': sum(r['ignored'] for r in reports),
        'bytes': sum(r['bytes'] for r in reports),
    }
    if captions := sum(r.get('captions_dropped', 0) for r in reports):
        result['captions_dropped'] = captions
    if share is not None:
        held_out = sum(r['held_out']['kept'] for r in reports)
        result['held_out'] = {
            'share': share,
            records.SPLIT: result['kept'] - held_out,
            records.HELD_OUT_SPLIT: held_out,
        }
    return result


def describe(result: dict[str, Any], out: str) -> str:
    """The report of `prepare` for the console."""
    lines = [
        f'{result["present"]} samples in {result["shards"]} shards: '
        f'{result["kept"]} kept, {result["dropped"]} dropped',
        *(
            f'  {count:>9} {reason:<18} {REASONS[reason]}'
            for reason, count in result['dropped_by_reason'].items()
        ),
    ]
    if result['missing_shards']:
        lines.append(f'  {len(result["missing_shards"])} shards were missing: see report.json')
    for cut in result['cut_shards'][:SHOWN_CUTS]:
        unit = 'byte' if 'bytes' in cut else 'row'
        lines.append(
            f'  {cut["shard"]} is damaged after {unit} {cut[f"intact_{unit}s"]} of {cut[f"{unit}s"]}: '
            'what is behind is in no count'
        )
    if (more := len(result['cut_shards']) - SHOWN_CUTS) > 0:
        lines.append(f'  {more} more shards are damaged: see report.json')
    if 'captions_dropped' in result:
        lines.append(f'  {result["captions_dropped"]} bad captions of images with good ones')
    lines += held_out_lines(result)
    scored = result.get('held_out', {}).get(records.HELD_OUT_SPLIT)
    flags = '--workdir=runs/own' if scored else '--workdir=runs/own --config.eval_every=0'
    command = f'python main.py --config=configs/own_data.py --config.data.dir={shlex.quote(out)}'
    lines.append(f'Train on it, a small model, minutes on a CPU: {command} {flags}')
    return '\n'.join(lines)


def held_out_lines(result: dict[str, Any]) -> list[str]:
    """What was held out, or how to hold out something."""
    if 'held_out' not in result:
        return ['No held-out pairs: --held_out=0.05 and a new --out give a score while it trains']
    taken = result['held_out'][records.HELD_OUT_SPLIT]
    if not taken:
        return ['No pair was held out by chance: give a larger --held_out and a new --out']
    return [f'{taken} of {result["kept"]} are held out, as split {records.HELD_OUT_SPLIT}']
