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

from input_pipeline import raw_samples, records, word_counts
from input_pipeline.validate import REASONS, check_caption, check_image
from input_pipeline.worker import STATE, prepare_shard, start_worker, words_path
from pgs.errors import UserError
from pgs.utils.files import read_json, replacing, write_json, writing

REPORT_KEYS = {'present', 'members', 'ignored', 'kept', 'dropped', 'bytes', 'samples', 'cut'}
SHOWN_CUTS = 10  # damaged shards on the console


def open_plan(
    source: str, images: str | None, out: Path, max_side: int | None
) -> tuple[list[raw_samples.Shard], list[str]]:
    """Lists the shards, and records the settings of this preparation in its folder.

    Returns:
      (shards, paths that the source names but that do not exist).

    Raises:
      UserError: a source that cannot be used, or a folder with other content or other settings.
    """
    if source.endswith('.tsv') != bool(images):
        raise UserError('a .tsv needs --images=DIR, the folder of its images, and a tar takes none')
    if images:
        raw_samples.check_image_folder(images)
    shards, missing = raw_samples.find_shards(source)
    plan = {'shards': [list(s) for s in shards], 'images': images, 'max_side': max_side}
    path = out / STATE / 'plan.json'
    with writing(f'to --out={out}'):
        if path.exists() and read_state(path) != plan:
            raise UserError(
                f'--out={out} holds another preparation (other shards or --max_side): '
                'give another folder, or delete it'
            )
        if not path.exists() and out.is_dir() and any(out.iterdir()):
            raise UserError(f'--out={out} is not empty: give a new folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    return shards, missing


def prepare(
    source: str,
    out: str,
    *,
    images: str | None = None,
    max_side: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Prepares a data set, or continues after an interruption.

    Args:
      source: tar pattern with braces, folder of tars, or a .tsv file.
      out: folder of the prepared data set.
      images: folder of the images of a .tsv file.
      max_side: pixels; larger images are scaled down. None: no limit.
      workers: number of processes; None: one per core.

    Returns:
      The content of report.json: present (counted by the reader), kept, dropped by reason, shards,
      missing shards, shards that are cut.

    Raises:
      UserError: a source or folder that cannot be used, or a full disk.
    """
    folder = Path(out).expanduser().absolute()
    shards, missing = open_plan(source, images, folder, max_side)
    for path in missing:
        print(f'warning: shard {path} does not exist', file=sys.stderr)
    reports = finished_reports(folder, len(shards))
    if reports:
        print(f'{len(reports)} of {len(shards)} shards are already done')

    run_workers(shards, reports, folder, images=images, max_side=max_side, workers=workers)
    return finish(folder, [reports[i] for i in range(len(shards))], missing)


def run_workers(
    shards: list[raw_samples.Shard],
    reports: dict[int, dict[str, Any]],
    folder: Path,
    *,
    images: str | None,
    max_side: int | None,
    workers: int | None,
) -> None:
    """Prepares the shards without a report, and adds their reports; shows a progress bar.

    Raises:
      UserError: a shard that could not be written.
    """
    weights = [1 if images else os.path.getsize(shard.path) for shard in shards]
    bar = tqdm.tqdm(
        total=sum(weights),
        initial=sum(weights[i] for i in reports),
        desc='Preparing',
        unit=' shards' if images else 'B',
        unit_scale=not images,
    )
    pool = concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(),
        mp_context=multiprocessing.get_context('spawn'),
        initializer=start_worker,
        initargs=(images,),
    )
    try:
        futures = {
            pool.submit(prepare_shard, shard, index, len(shards), str(folder), max_side): index
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


def finished_reports(folder: Path, count: int) -> dict[int, dict[str, Any]]:
    """The reports of the shards that are finished already, by number of the shard."""
    reports = {}
    for index in range(count):
        path = folder / STATE / f'{index:05}.json'
        if path.exists() and (folder / records.shard_name(index, count)).exists():
            report = read_state(path)
            if isinstance(report, dict) and report.keys() >= REPORT_KEYS:
                reports[index] = report
            else:
                print(f'{path} is damaged or of an older version: its shard is prepared again')
    return reports


def read_state(path: Path) -> Any:
    """The content of a JSON file of this preparation; None if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def finish(folder: Path, reports: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    """Writes dropped.jsonl, report.json, the word counts, and then what makes it a data set.

    Args:
      folder: of the prepared data set.
      reports: of all shards, in order.
      missing: paths of shards that do not exist.

    Returns:
      The content of report.json.

    Raises:
      UserError: no sample was kept.
    """
    reasons: collections.Counter[str] = collections.Counter()
    with replacing(folder / 'dropped.jsonl') as file:
        for report in reports:
            reasons.update(report['dropped'])
            file.writelines(f'{json.dumps(sample)}\n'.encode() for sample in report['samples'])
    kept, dropped = sum(r['kept'] for r in reports), sum(reasons.values())
    present = sum(r['present'] for r in reports)
    if present != kept + dropped:
        raise UserError(
            f'{present} samples were read, but {kept} kept and {dropped} dropped: a report in '
            f'{folder / STATE} is wrong; delete {folder} and prepare again'
        )
    result = {
        'present': present,
        'kept': kept,
        'dropped': dropped,
        'dropped_by_reason': dict(sorted(reasons.items())),
        'shards': len(reports),
        'missing_shards': missing,
        'cut_shards': [r['cut'] for r in reports if r['cut']],
        'members': sum(r['members'] for r in reports),
        'ignored_members': sum(r['ignored'] for r in reports),
        'bytes': sum(r['bytes'] for r in reports),
    }
    write_json(folder / 'report.json', result)
    if not kept:
        raise UserError(f'none of {dropped} samples could be kept: see {folder / "dropped.jsonl"}')
    write_word_counts(folder, [r['kept'] for r in reports])
    records.write_metadata(folder, [r['kept'] for r in reports], result['bytes'])
    return result


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
    source = open_folder(folder)
    for index in tqdm.tqdm(range(len(source)), desc='Verifying', unit=' records'):
        try:
            record = source[index]
            check_image(record['image'])
            check_caption(record['captions'][0])
        except Exception as error:
            raise UserError(
                f'{source.location(index)} is damaged: {error!r}; delete that shard and its report '
                f'in {STATE}/, then prepare again'
            ) from error
    report = read_state(folder / 'report.json')
    expected = report.get('kept') if isinstance(report, dict) else None
    if expected is None:
        raise UserError(f'cannot read {folder}/report.json: prepare the folder again')
    if len(source) != expected:
        raise UserError(f'{folder} holds {len(source)} records, but its report.json {expected}')
    return len(source)


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
        lines.append(
            f'  {cut["shard"]} is damaged after byte {cut["intact_bytes"]} of {cut["bytes"]}: '
            'what is behind is in no count'
        )
    if (more := len(result['cut_shards']) - SHOWN_CUTS) > 0:
        lines.append(f'  {more} more shards are damaged: see report.json')
    lines.append(f'Train on it: python main.py --config.data.name=pairs --config.data.dir={out}')
    return '\n'.join(lines)
