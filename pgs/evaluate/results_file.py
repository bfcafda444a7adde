"""The results file of `python -m pgs.evaluate`: read, checked, written; one line for the console."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgs.convert.tensors import SUFFIXES
from pgs.errors import UserError
from pgs.evaluate.data import Task
from pgs.utils.files import read_json, write_json, writing

COUNTS = ('n', 'n_texts', 'n_cut')


def model_id(header: Mapping[str, Any]) -> str:
    """What identifies the features of a results file's model: the weights and the mask.

    Args:
      header: weights (fingerprint) and, where images are masked, masking.
    """
    if 'masking' not in header:
        return header['weights']
    mask = json.dumps(header['masking'], sort_keys=True)
    return f'{header["weights"]}-{hashlib.sha256(mask.encode()).hexdigest()[:8]}'


def row_name(checkpoint: str, mask: str = '') -> str:
    """'runs/pgs-0.3' -> 'pgs-0.3', 'weights/a.safetensors' -> 'a'; 'a (masked by MASK)'."""
    path = Path(checkpoint)
    name = path.stem if path.suffix in SUFFIXES else path.name
    return f'{name} (masked by {mask})' if mask else name


def read_previous(
    path: Path, weights: str, data_root: str, masking: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Content of an earlier results file, or {} if there is none.

    Args:
      path: of the file.
      weights: fingerprint that the file must have.
      data_root: folder of the sets that the file must have.
      masking: mask of the images that the file must have; None: none.

    Raises:
      UserError: results of other weights, data or masks, or a file of another program.
    """
    if not path.exists():
        return {}
    try:
        results = read_json(path)
        if not isinstance(results['checkpoint'], str) or not isinstance(results['tasks'], dict):
            raise TypeError('no results of pgs.evaluate')
        same = (results['weights'], results['data_root']) == (weights, data_root)
        same_mask = results.get('masking') == masking
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'--out={path} is not a results file of pgs.evaluate: give another path'
        ) from error
    if not same:
        raise UserError(
            f'--out={path} holds results of {results["checkpoint"]} on {results["data_root"]}, other '
            'weights or data: give another --out, or move it away'
        )
    if not same_mask:
        raise UserError(
            f'--out={path} holds results of {results["checkpoint"]} with other masks of the images '
            '(--masking): give another --out, or move it away'
        )
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """Replaces the file; creates its folder.

    Raises:
      UserError: a file that cannot be written.
    """
    with writing(f'--out={path}'):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, results)


def entry(task: Task, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
    """A task's entry in the file."""
    return {
        'kind': task.kind,
        **{name: metrics[name] for name in COUNTS if name in metrics},
        'metrics': {name: value for name, value in metrics.items() if name not in COUNTS},
        'seconds': seconds,
        'data': task.data.origin,
        'note': task.data.note,
    }


def metrics_line(metrics: dict[str, float]) -> str:
    """A task's metrics in percent, and its counts."""
    shares = [
        f'{name} {100 * value:.1f}'
        for name, value in metrics.items()
        if name not in COUNTS and name != 'weight_decay'
    ]
    decay = f', weight decay {metrics["weight_decay"]:.3g}' if 'weight_decay' in metrics else ''
    cut = f', {metrics["n_cut"]} texts cut to the context length' if metrics.get('n_cut') else ''
    return f'{", ".join(shares)}{decay} ({metrics["n"]} images{cut})'
