"""Prepares image-text pairs for training, shard by shard; the logic of `prepare`."""

import collections
import concurrent.futures
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import tqdm

from input_pipeline import records, word_counts
from input_pipeline.held_out_split import HeldOut
from input_pipeline.plan import Plan, open_plan, read_state
from input_pipeline.prepared_report import summed
from input_pipeline.raw.reader import Request
from input_pipeline.validate import check_caption, check_image
from input_pipeline.worker import STATE, prepare_shard, start_worker, words_path
from pgs.errors import UserError
from pgs.utils.files import replacing, write_json

REPORT_KEYS = {'present', 'members', 'ignored', 'kept', 'dropped', 'bytes', 'samples', 'cut'}


def prepare(
    source: str,
    out: str,
    *,
    images: str | None = None,
    image_key: str | None = None,
    caption_key: str | None = None,
    template: str | None = None,
    max_side: int | None = None,
    held_out: HeldOut | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Prepares a data set, or continues after an interruption.

    Args:
      source: folder, table, JSON of captions, or pattern of tars (docs/data.md).
      out: folder of the prepared data set.
      images: folder of the images that a table or JSON names.
      image_key, caption_key: columns of a table; None: found by their names.
      template: of captions, with {} for the name of an image's folder; None: captions are in files.
      max_side: pixels; larger images are scaled down. None: no limit.
      held_out: how much becomes a validation split; None: there is none.
      workers: number of processes; None: one per core.

    Returns:
      The content of report.json: present (counted by the reader), kept, dropped by reason, shards,
      missing shards, shards that are cut.

    Raises:
      UserError: a source or folder that cannot be used, or a full disk.
    """
    folder = Path(out).expanduser().absolute()
    source, images = os.path.expanduser(source), images and os.path.expanduser(images)
    request = Request(source, images, image_key, caption_key, template)
    plan = open_plan(request, folder, max_side, held_out)
    for path in plan.missing:
        print(f'warning: shard {path} does not exist', file=sys.stderr)
    reports = finished_reports(folder, plan)
    if reports:
        print(f'{len(reports)} of {len(plan.shards)} shards are already done')

    run_workers(plan, reports, folder, max_side=max_side, workers=workers)
    return finish(
        folder,
        [reports[i] for i in range(len(plan.shards))],
        list(plan.missing),
        rows=plan.rows,
        share=plan.share,
    )


def run_workers(
    plan: Plan,
    reports: dict[int, dict[str, Any]],
    folder: Path,
    *,
    max_side: int | None,
    workers: int | None,
) -> None:
    """Prepares the shards without a report, and adds their reports; shows a progress bar.

    Raises:
      UserError: a shard that could not be written.
    """
    shards = plan.shards
    weights = [shard.rows or os.path.getsize(shard.path) for shard in shards]
    in_bytes = plan.reader.kind == 'tar'
    bar = tqdm.tqdm(
        total=sum(weights),
        initial=sum(weights[i] for i in reports),
        desc='Preparing',
        unit='B' if in_bytes else ' rows',
        unit_scale=in_bytes,
    )
    pool = concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(),
        mp_context=multiprocessing.get_context('spawn'),
        initializer=start_worker,
        initargs=(plan.reader,),
    )
    try:
        futures = {
            pool.submit(
                prepare_shard, shard, index, len(shards), str(folder), max_side, plan.share
            ): index
            for index, shard in enumerate(shards)
            if index not in reports
        }
        for future in concurrent.futures.as_completed(futures):
            index = futures[future]
            reports[index] = future.result()
            bar.update(weights[index])
            kept = sum(r['kept'] for r in reports.values())
            bar.set_postfix_str(f'{len(reports)}/{len(shards)} shards, {kept} kept')
    except (OSError, RuntimeError) as error:
        raise UserError(
            f'cannot continue with {shards[index].path}: {error}; finished shards are kept: '
            'correct the cause (disk space, permissions) and run the same command again'
        ) from error
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)


def finished_reports(folder: Path, plan: Plan) -> dict[int, dict[str, Any]]:
    """The reports of the shards that are finished already, by number of the shard."""
    reports, count = {}, len(plan.shards)
    needed = REPORT_KEYS if plan.share is None else REPORT_KEYS | {'held_out'}
    splits = [records.SPLIT] if plan.share is None else [records.SPLIT, records.HELD_OUT_SPLIT]
    for index in range(count):
        path = folder / STATE / f'{index:05}.json'
        files = [folder / records.shard_name(index, count, split) for split in splits]
        if path.exists() and all(file.exists() for file in files):
            report = read_state(path)
            if isinstance(report, dict) and report.keys() >= needed:
                reports[index] = report
            else:
                print(f'{path} is damaged or of an older version: its shard is prepared again')
    return reports


def finish(
    folder: Path,
    reports: list[dict[str, Any]],
    missing: list[str],
    *,
    rows: int | None = None,
    share: float | None = None,
) -> dict[str, Any]:
    """Writes dropped.jsonl, report.json, the word counts, and then what makes it a data set.

    Args:
      folder: of the prepared data set.
      reports: of all shards, in order.
      missing: paths of shards that do not exist.
      rows: of the source, where they were counted before; None: unknown.
      share: that was held out; None: none.

    Returns:
      The content of report.json.

    Raises:
      UserError: no sample was kept, or none for training.
    """
    reasons: collections.Counter[str] = collections.Counter()
    with replacing(folder / 'dropped.jsonl') as file:
        for report in reports:
            reasons.update(report['dropped'])
            file.writelines(f'{json.dumps(sample)}\n'.encode() for sample in report['samples'])
    result = summed(reports, reasons, missing, share)
    kept, dropped = result['kept'], result['dropped']
    accounts = [('samples', result['present'], kept + dropped)]
    if rows is not None:
        accounts.append(('rows', rows, result['members']))
    for what, present, counted in accounts:
        if present != counted:
            raise UserError(
                f'{present} {what} were read, but {kept} kept and {dropped} dropped samples make '
                f'{counted}: a report in {folder / STATE} is wrong; delete {folder} and prepare again'
            )
    write_json(folder / 'report.json', result)
    if not kept:
        raise UserError(f'none of {dropped} samples could be kept: see {folder / "dropped.jsonl"}')
    splits = splits_of(reports, share)
    if not sum(splits[records.SPLIT].shard_lengths):
        raise UserError(f'--held_out took all {kept} samples: give less, and another --out')
    write_word_counts(folder, splits[records.SPLIT].shard_lengths)
    records.write_metadata(folder, splits)
    return result


def splits_of(reports: list[dict[str, Any]], share: float | None) -> dict[str, records.Split]:
    """The splits of a data set that have records."""
    taken = [r.get('held_out', {'kept': 0, 'bytes': 0}) for r in reports]
    train = [
        (r['kept'] - t['kept'], r['bytes'] - t['bytes'])
        for r, t in zip(reports, taken, strict=True)
    ]
    splits = {records.SPLIT: records.Split([n for n, _ in train], sum(size for _, size in train))}
    if share is not None and any(t['kept'] for t in taken):
        splits[records.HELD_OUT_SPLIT] = records.Split(
            [t['kept'] for t in taken], sum(t['bytes'] for t in taken)
        )
    return splits


def write_word_counts(folder: Path, shard_lengths: list[int]) -> None:
    """Adds up the words of all shards; if some were prepared without, a run counts them instead."""
    paths = [words_path(folder, index) for index in range(len(shard_lengths))]
    if not all(path.is_file() for path in paths):
        return
    counts: collections.Counter[str] = collections.Counter()
    for path in paths:
        counts.update(json.loads(path.read_text()))
    names = [records.shard_name(index, len(paths)) for index in range(len(paths))]
    shards = dict(zip(names, shard_lengths, strict=True))
    word_counts.write(folder, records.SPLIT, shards, counts)


def verify(out: str) -> int:
    """Reads every record of a prepared folder again, and decodes its image.

    Returns:
      The number of records.

    Raises:
      UserError: a damaged shard, a record that does not decode, or a wrong number of records.
    """
    from input_pipeline.sources import open_folder  # imports TensorFlow; workers do without it

    folder = Path(out).expanduser().absolute()
    report = read_state(folder / 'report.json')
    expected = report.get('kept') if isinstance(report, dict) else None
    splits = [records.SPLIT]
    if isinstance(report, dict) and report.get('held_out', {}).get(records.HELD_OUT_SPLIT):
        splits.append(records.HELD_OUT_SPLIT)
    read = 0
    for split in splits:
        source = open_folder(folder, split)
        for index in tqdm.tqdm(range(len(source)), desc=f'Verifying {split}', unit=' records'):
            try:
                record = source[index]
                check_image(record['image'])
                for caption in record['captions']:
                    check_caption(caption)
            except Exception as error:
                raise UserError(
                    f'{source.location(index)} is damaged: {error!r}; delete that shard and its '
                    f'report in {STATE}/, then prepare again'
                ) from error
        read += len(source)
    if expected is None:
        raise UserError(f'cannot read {folder}/report.json: prepare the folder again')
    if read != expected:
        raise UserError(f'{folder} holds {read} records, but its report.json {expected}')
    return read
