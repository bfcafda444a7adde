"""The plan of a preparation: what is read, in which shards; kept in the folder, so that it can continue."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tqdm

from input_pipeline.held_out_split import HeldOut
from input_pipeline.raw import layouts, listing, tar_samples
from input_pipeline.raw.image_files import ImageFiles
from input_pipeline.raw.layouts import Layout
from input_pipeline.raw.reader import Reader, Request
from input_pipeline.raw.samples import Shard
from input_pipeline.worker import STATE
from pgs.errors import UserError
from pgs.utils.files import read_json, write_json, writing

PLAN, PARTIAL, DATABASE = 'plan.json', f'{listing.NAME}.partial', 'list.sqlite'


class Plan(NamedTuple):
    """What a preparation reads.

    Attributes:
      shards: in order.
      missing: paths that the source names but that do not exist.
      reader: for the workers.
      rows: of the source, where they were counted before; None: unknown.
      share: of the samples that is held out; None: none.
    """

    shards: list[Shard]
    missing: tuple[str, ...]
    reader: Reader
    rows: int | None
    share: float | None


def open_plan(
    request: Request, out: Path, max_side: int | None, held_out: HeldOut | None = None
) -> Plan:
    """Finds out what is to be read, says so, and records it in the folder.

    Args:
      request: what the command was asked to read.
      out: the prepared folder.
      max_side: pixels, or None.
      held_out: what is asked for, or None.

    Raises:
      UserError: a source that cannot be used, or a folder with other content or other settings.
    """
    layout = layouts.find(request, str(out))
    print(layout.sentence, flush=True)
    state = out / STATE
    path = state / PLAN
    with writing(f'to --out={out}'), new_folders(state):
        check_empty(out, path)
        state.mkdir(parents=True, exist_ok=True)
        listed = write_list(layout, state) if layout.rows else None
        shards = listed.shards if listed else layout.shards or []
        share = held_out and share_of(held_out, samples_of(layout, shards))
        # An option that is not used is not named: a preparation of an older version continues.
        plan: dict[str, Any] = {
            'shards': [list(shard) for shard in shards],
            'images': request.images,
            'max_side': max_side,
        }
        if layout.reader.kind in ('list', 'parquet'):
            plan['reader'] = list(layout.reader)
        if listed:
            plan['list'] = listed.digest
        if share is not None:
            plan['held_out'] = share
        if path.exists() and read_state(path) != json.loads(json.dumps(plan)):
            raise UserError(
                f'--out={out} holds another preparation (another source, or one that changed, '
                '--max_side or --held_out): give another folder, or delete it'
            )
        if listed:
            os.replace(state / PARTIAL, state / listing.NAME)
        if not path.exists():
            write_json(path, plan)
    return Plan(shards, layout.missing, layout.reader, listed and listed.rows, share)


@contextmanager
def new_folders(state: Path) -> Iterator[None]:
    """Removes a list that is not complete, and folders that are empty, if the block fails."""
    before = {folder for folder in (state, *state.parents) if folder.exists()}
    try:
        yield
    except BaseException:
        (state / PARTIAL).unlink(missing_ok=True)
        for folder in (state, *state.parents):
            if folder in before or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def check_empty(out: Path, path: Path) -> None:
    """Raises UserError if a folder without a plan holds anything but a list that was cut off."""
    if path.exists() or not out.is_dir():
        return
    left = {p.name for p in out.iterdir()}
    in_state = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
    ours = {PARTIAL, listing.NAME, DATABASE, f'{DATABASE}-journal', f'{PLAN}.partial'}
    if left - {STATE} or in_state - ours:
        raise UserError(f'--out={out} is not empty: give a new folder')


def write_list(layout: Layout, state: Path) -> listing.Listing:
    """Lists the images of a source, and looks for the first of them.

    Raises:
      UserError: no images, no captions, or none of the first images is found.
    """
    assert layout.rows
    rows = tqdm.tqdm(layout.rows(), desc='Listing', unit=' rows', delay=2)
    entries = listing.joined(rows, state / DATABASE) if layout.joins else listing.entries_of(rows)
    found = listing.write(entries, state / PARTIAL)
    reader = layout.reader
    files = ImageFiles(reader.folder or '', reroot=reader.reroot)
    unlabelled = 'name another column by --caption_key' if layout.joins else layouts.LABELS
    listing.check_first(found, files, layout.where, unlabelled)
    print(f'Found {found.entries} samples in {found.rows} rows or files', flush=True)
    shards = [shard._replace(path=str(state / listing.NAME)) for shard in found.shards]
    return found._replace(shards=shards)


def samples_of(layout: Layout, shards: list[Shard]) -> int:
    """The number of samples before any check: of tars an estimate, of other sources exact."""
    if layout.reader.kind == 'tar':
        return tar_samples.estimate([shard.path for shard in shards])
    return sum(shard.rows for shard in shards)


def share_of(held_out: HeldOut, total: int) -> float:
    """The share that is held out of `total` samples; says so."""
    share = held_out.share_of(total)
    print(f'Holds out about {round(share * total)} of {total} samples, by a hash of their names')
    return share


def read_state(path: Path) -> Any:
    """The content of a JSON file of a preparation; None if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
