"""Whether a stored checkpoint of a run is complete and as it was written."""

import json
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pgs.errors import UserError
from pgs.utils import checksums
from pgs.utils.files import absolute

FORMAT = 1  # of a run's checkpoints: 1 has checksums; 0, without a number, has none
FORMAT_KEY = 'pgs_format'
ITEM = 'default'  # Orbax's folder of the state within that of a step
LONG = 120  # characters of an error's text; it names a file and its folders then
METADATA = '_CHECKPOINT_METADATA'  # Orbax's description of a step


def checkpoint_steps(folder: epath.Path) -> list[int]:
    """The steps of a run's committed checkpoints, oldest first; none if it has no checkpoints."""
    checkpoints = absolute(folder) / 'checkpoints'
    return sorted(ocp.path.step.checkpoint_steps(checkpoints)) if checkpoints.is_dir() else []


def read_metadata(step_folder: epath.Path) -> dict[str, Any]:
    """What save stored beside the arrays: FORMAT_KEY and the run's config; {} in older ones.

    Raises:
      OSError, ValueError: a file that is absent or damaged.
    """
    content = json.loads((step_folder / METADATA).read_bytes())
    if not isinstance(content, dict) or not isinstance(content.get('custom_metadata'), dict):
        raise ValueError('it is not the description of a checkpoint')
    return content['custom_metadata']


def find_damage(step_folder: epath.Path) -> str | None:
    """What is wrong with a committed checkpoint, in a few words; None if it is intact.

    Checkpoints with checksums are compared with them. Older ones are read once, which finds
    missing and cut files but not every changed byte; several processes cannot do that, because
    only one of them calls this function.

    Raises:
      UserError: a checkpoint of a newer format.
    """
    if not any(step_folder.iterdir()):
        return 'its folder is empty'
    try:
        metadata = read_metadata(step_folder)
    except OSError as error:
        return f'{METADATA} cannot be read ({error.strerror or error})'
    except ValueError:
        return f'{METADATA} is not valid JSON'
    version = metadata.get(FORMAT_KEY, 0)
    if not isinstance(version, int):
        return f'{METADATA} is damaged'
    if version > FORMAT:
        raise UserError(
            f'{step_folder} has format {version}, this program reads up to {FORMAT}: '
            'use the version of the program that wrote it, or a newer one'
        )
    if version:
        return checksums.find_damage(step_folder / ITEM)
    if not (step_folder / ITEM / '_METADATA').is_file():
        return f'{ITEM}/_METADATA is missing'
    return None if jax.process_count() > 1 else reading_error(step_folder / ITEM)


def reading_error(path: epath.Path) -> str | None:
    """Why the arrays of a checkpoint without checksums cannot be read; None if they can be."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), tree)
        handler.restore(path, args=ocp.args.PyTreeRestore(tree, restore_args=as_numpy))
    except Exception as error:  # Orbax and TensorStore raise errors of any kind for bad bytes
        return first_line(error)
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text; of TensorStore's long ones, the code and the cause."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    for details in (' [source locations=', ' [tensorstore_spec=', ' [os_error_code='):
        line = line.split(details)[0]
    code, *_, cause = line.split(': ') if len(line) > LONG and ': ' in line else ('', line)
    return f'{code}: {cause}' if code else line


def newest_intact(folder: str | os.PathLike) -> tuple[int, dict[int, str]]:
    """The newest intact checkpoint of a run.

    Args:
      folder: of the run, with at least one checkpoint.

    Returns:
      (step, {step: damage} of the newer ones, newest first).

    Raises:
      UserError: no checkpoint is intact.
    """
    checkpoints = absolute(folder) / 'checkpoints'
    damaged: dict[int, str] = {}
    for step in reversed(checkpoint_steps(absolute(folder))):
        damage = find_damage(checkpoints / str(step))
        if damage is None:
            return step, damaged
        damaged[step] = damage
    listed = '; '.join(f'{step}: {damage}' for step, damage in damaged.items())
    raise UserError(
        f'no checkpoint in {checkpoints} is intact ({listed}): copy one back from a backup, or '
        'move that folder away to start the run again from its first step'
    )
