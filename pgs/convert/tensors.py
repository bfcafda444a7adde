"""Reads tensors by name from safetensors and PyTorch files without running code, and checks them."""

import argparse
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pgs.errors import UserError

TORCH_SUFFIXES = ('.bin', '.pt', '.pth')
SUFFIXES = ('.safetensors', *TORCH_SUFFIXES)

Weights = tuple[dict[str, Any], dict[str, Any], str]  # (parameters, architecture, source)
AnyPath = TypeVar('AnyPath', Path, epath.Path)


def first_of(folder: AnyPath, names: tuple[str, ...]) -> AnyPath | None:
    """The first of these files that exists in the folder, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of weights.

    Args:
      path: .safetensors, or .bin, .pt, .pth of torch.save: a state dict, or a training
        checkpoint with one under 'state_dict'; a prefix `module.` of all names is removed.

    Returns:
      Name -> float32 array; integer and boolean buffers keep their type.

    Raises:
      UserError: a file that is absent, cannot be read or holds code; torch not installed.
    """
    if not path.is_file():
        raise UserError(f'{path} does not exist: give a file of weights')
    if path.suffix in TORCH_SUFFIXES:
        arrays = read_torch(path)
    else:
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            why = ' '.join(str(error).split())[:200]  # it may quote line breaks of the file
            raise UserError(f'cannot read {path} as safetensors: {why}') from error
    if arrays and all(name.startswith('module.') for name in arrays):
        arrays = {name.removeprefix('module.'): array for name, array in arrays.items()}
    # Buffers such as position_ids are not parameters, so their type does not matter.
    return {n: a if a.dtype.kind in 'iub' else a.astype(np.float32) for n, a in arrays.items()}


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file of torch.save, which may hold only tensors and plain values.

    A training checkpoint may also hold its arguments as an argparse.Namespace, which is left out.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise UserError(
                    f"{path} is a TorchScript archive, which is a program (OpenAI's files are): "
                    'give a state dict, as torch.save(model.state_dict(), ...) writes it'
                )
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f'{path} is a file of PyTorch, which is not installed: '
            'pip install -r requirements-torch.txt, or give a .safetensors file'
        ) from error
    try:
        # A namespace holds attributes and has no code of its own; what is in it is restricted too.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if 'eights only load failed' in reason or 'weights_only' in reason:
            reason = 'it holds pickled code, or is damaged; give a file with only its state_dict'
        raise UserError(f'cannot read {path}: {reason}') from error
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content = content['state_dict']
    if not isinstance(content, dict):
        raise UserError(f'{path} holds a {type(content).__name__}, not a state dict by name')
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f'{path}: {name!r} is a {type(value).__name__}, not a tensor: give a state dict, '
                "or a checkpoint that has one under 'state_dict'"
            )
    floating = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    return {
        name: (value.detach().float() if value.dtype in floating else value.detach()).numpy()
        for name, value in content.items()
    }


def check_tensors(
    arrays: dict[str, np.ndarray], expected: dict[str, jax.ShapeDtypeStruct], where: str
) -> None:
    """Checks weights against the names and shapes of a model.

    Args:
      arrays: name -> array, from read_tensors.
      expected: name -> shape in the model.
      where: name of the weights in messages.

    Raises:
      UserError: a missing or surplus tensor, one of another shape, or one that is not finite.
    """
    hint = 'does the config (layers, image and text tower) fit them?'
    if missing := sorted(expected.keys() - arrays.keys()):
        raise UserError(f'{where} lacks {missing[0]!r} ({len(missing)} missing): {hint}')
    if surplus := sorted(arrays.keys() - expected.keys()):
        raise UserError(
            f'{where} holds {surplus[0]!r}, which this model does not have '
            f'({len(surplus)} surplus): {hint}'
        )
    for name, tensor in expected.items():
        if arrays[name].shape != tensor.shape:
            raise UserError(
                f'{where}: {name} has shape {arrays[name].shape}, {tensor.shape} by the config'
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f'{where}: {name} is not finite: the weights are damaged or diverged')
