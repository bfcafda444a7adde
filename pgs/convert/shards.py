"""Reads weights that are spread over several files, as Hugging Face's *.index.json lists them."""

from pathlib import Path, PurePosixPath

import numpy as np

from pgs.config_table import shown
from pgs.convert.tensors import SUFFIXES, read_tensors
from pgs.errors import UserError
from pgs.utils.files import read_json

INDEX = '.index.json'  # ends the name of an index


def read_shards(index: Path) -> dict[str, np.ndarray]:
    """Reads all files that an index names.

    Args:
      index: JSON with `weight_map`: name of a tensor -> file in the same folder.

    Returns:
      Name -> array, as read_tensors.

    Raises:
      UserError: an index that is damaged or names a file outside its folder, a file that is absent
        or damaged, or tensors other than those that the index gives to their file.
    """
    files = read_index(index)
    if absent := [name for name in files if not (index.parent / name).is_file()]:
        raise UserError(
            f'{index.parent} lacks {len(absent)} of {len(files)} files that {index.name} names: '
            f'{", ".join(absent[:5])}{", ..." if len(absent) > 5 else ""}; download the folder again'
        )
    arrays: dict[str, np.ndarray] = {}
    for name, tensors in files.items():
        part = read_tensors(index.parent / name)
        if differing := sorted(part.keys() ^ tensors):
            raise UserError(
                f'{index.parent / name} does not hold the tensors that {index.name} gives it: '
                f'{differing[0]!r} is in one of them only; download the folder again'
            )
        arrays |= part
    return arrays


def read_index(index: Path) -> dict[str, set[str]]:
    """File name -> names of its tensors; see read_shards."""
    try:
        content = read_json(index)
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {index}: {error}') from error
    weight_map = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no 'weight_map': it is not an index of weights")
    files: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or PurePosixPath(name).suffix not in SUFFIXES:
            raise UserError(
                f'{index} names {shown(name)} as a file of weights: {SUFFIXES} are read'
            )
        if PurePosixPath(name).name != name or '\\' in name or '\0' in name:
            raise UserError(
                f'{index} names {shown(name)}, which is not in its own folder: such a file is not read'
            )
        files.setdefault(name, set()).add(tensor)
    return files
