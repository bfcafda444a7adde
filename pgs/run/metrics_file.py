"""metrics.jsonl: read, and cut back to what a checkpoint covers when a run resumes."""

import json
import os
from typing import Any, NamedTuple

from etils import epath

from pgs.errors import UserError
from pgs.utils.distributed import print_once
from pgs.utils.files import absolute, reason, replacing, writing

NAME = 'metrics.jsonl'
ASIDE = 'metrics.jsonl.damaged'  # beside it: lines that were not JSON objects with a step
SCORE = 'eval/'  # begins the names of scores


class Line(NamedTuple):
    """A line of the file, and its record; None of a damaged line."""

    raw: bytes
    record: dict[str, Any] | None


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl, oldest first; damaged lines are left out.

    Raises:
      UserError: a path that cannot be read; an absent file has no records.
    """
    return [line.record for line in read_lines(epath.Path(path)) if line.record is not None]


def read_lines(path: epath.Path) -> list[Line]:
    """The lines of a metrics.jsonl, without a last one that was cut off while it was written."""
    try:
        content = path.read_bytes() if path.exists() else b''
    except OSError as error:
        raise UserError(
            f'cannot read {path} ({reason(error)}): move it away, and put back the metrics.jsonl '
            'of the run, or an empty file'
        ) from error
    *complete, last = content.split(b'\n')
    lines = [Line(raw, parse(raw)) for raw in complete if raw.strip()]
    if parse(last) is not None:  # complete but for its line break
        lines.append(Line(last, parse(last)))
    return lines


def parse(raw: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is not a JSON object with a step."""
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        return None
    return record if isinstance(record, dict) and type(record.get('step')) is int else None


def cut_back(
    workdir: str | os.PathLike,
    *,
    resume_step: int,
    total_steps: int,
    copy: epath.Path | None = None,
) -> None:
    """Leaves the lines that an unbroken run has written when it saves the checkpoint.

    Those are the lines up to `resume_step`, each once; without the scores of the last step, which
    are written after its checkpoint. A run that starts leaves none. Damaged lines are moved to
    ASIDE with a warning; lines that are lost are put back from the checkpoint's copy.

    Args:
      workdir: folder of the run.
      resume_step: of the checkpoint; 0: the run starts.
      total_steps: of the run.
      copy: the file as it was when the checkpoint was written, or later; None: there is none.

    Raises:
      UserError: a resumed run without the file, or a file that cannot be read or written.
    """
    path = absolute(workdir) / NAME
    if resume_step and not path.exists() and copy is None:
        raise UserError(
            f'{path} is missing, and the run resumes at step {resume_step}: put it back from a '
            'backup, or create an empty file to go on without the lines up to that step'
        )
    lines = read_lines(path)
    damaged = [line.raw for line in lines if line.record is None]
    with writing(str(path), 'make the folder writable'):
        if damaged:
            with (path.parent / ASIDE).open('ab') as file:
                file.write(b''.join(raw + b'\n' for raw in damaged))
            print_once(
                f'warning: {len(damaged)} of {len(lines)} lines of {path} are damaged: moved to '
                f'{path.parent / ASIDE}'
            )
        kept = covered(lines, resume_step, total_steps)
        written = covered(read_lines(copy) if copy else [], resume_step, total_steps)
        if lost := len(written.keys() - kept.keys()):
            print_once(f'warning: {lost} lines of {path} were lost: put back from {copy}')
            kept = written | kept  # what is in the file only was written after the copy
        with replacing(path) as file:
            file.write(b''.join(raw + b'\n' for raw in kept.values()))


def covered(lines: list[Line], resume_step: int, total_steps: int) -> dict[tuple, bytes]:
    """Step and kind -> the last such line that is_covered; an earlier version wrote some twice."""
    return {
        (line.record['step'], *sorted(line.record)): line.raw
        for line in lines
        if line.record is not None and is_covered(line.record, resume_step, total_steps)
    }


def is_covered(record: dict[str, Any], resume_step: int, total_steps: int) -> bool:
    """Whether a line was written before the checkpoint of `resume_step`."""
    if not resume_step or record['step'] > resume_step:
        return False
    return record['step'] < total_steps or not has_scores(record)


def has_scores(record: dict[str, Any]) -> bool:
    """Whether a record holds scores of an evaluation."""
    return any(name.startswith(SCORE) for name in record)


def is_logged(workdir: str | os.PathLike, step: int) -> bool:
    """Whether the file has scores of a step."""
    records = read_metrics(absolute(workdir) / NAME)
    return any(record['step'] == step and has_scores(record) for record in records)
