"""Image-text pairs into a training set, checked and counted, without Beam.

  python -m input_pipeline.prepare --source='DIR/{00000..01242}.tar' --out=DIR [--max_side=512]
  python -m input_pipeline.prepare --source=pairs.tsv --images=DIR --out=DIR
  python -m input_pipeline.prepare --verify --out=DIR

Shards are worked on in parallel, and each is finished or absent: a run that was stopped goes on with
the same command. At the end the folder holds record shards that training reads
(--config.data.dir=DIR), report.json with what was kept and dropped, and dropped.jsonl.
"""

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import sys
from pathlib import Path

import tqdm
from absl import logging

from input_pipeline import raw_samples, records
from input_pipeline.validate import MIN_SIDE, REASONS, DropError, check_caption, check_image
from pgs.errors import UserError
from pgs.utils.files import write_json

STATE = 'shards'  # folder of one report a shard: what is in it is finished
_images: raw_samples.ImageFolder | None = None  # of a worker process, scanned once


def start_worker(images: str | None) -> None:
    global _images
    _images = raw_samples.ImageFolder(images) if images else None


def raw_samples_of(shard: raw_samples.Shard):
    if shard.path.endswith('.tsv'):
        return raw_samples.tsv_samples(shard, _images)
    return raw_samples.tar_samples(shard)


def prepare_shard(
    shard: raw_samples.Shard, index: int, count: int, out: str, max_side: int | None
) -> dict:
    """Writes one shard and then its report; what is half done leaves no file of its name."""
    folder = Path(out)
    dropped, reasons, kept = [], collections.Counter(), 0
    with records.ShardWriter(folder / records.shard_name(index, count)) as writer:
        for sample in raw_samples_of(shard):
            try:
                writer.write(records.example_of(sample, max_side))
                kept += 1
            except DropError as drop:
                reason = drop.args[0]
                reasons[reason] += 1
                dropped.append({'key': sample.key, 'shard': shard.path, 'reason': reason})
    report = {
        'kept': kept, 'dropped': dict(reasons), 'bytes': writer.bytes, 'samples': dropped,
    }  # fmt: skip
    write_json(folder / STATE / f'{index:05}.json', report)
    return report


def open_plan(source: str, images: str | None, out: Path, max_side: int | None):
    """The shards of this preparation; a folder that holds another one's is refused.

    Returns:
      (shards, paths that the source names and that are missing).
    """
    if source.endswith('.tsv') != bool(images):
        raise UserError('a .tsv needs --images=DIR, the folder of its images, and a tar takes none')
    if images:
        raw_samples.check_image_folder(images)
    shards, missing = raw_samples.find_shards(source)
    plan = {'shards': [list(s) for s in shards], 'images': images, 'max_side': max_side}
    path = out / STATE / 'plan.json'
    try:
        if path.exists() and json.loads(path.read_text()) != plan:
            raise UserError(
                f'--out={out} holds another preparation (other shards or --max_side): '
                'give another folder, or delete it'
            )
        if not path.exists() and out.is_dir() and any(out.iterdir()):
            raise UserError(f'--out={out} is not empty: give a new folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    except OSError as error:
        raise UserError(f'cannot write to --out={out}: {error.strerror}') from error
    return shards, missing


def prepare(
    source: str,
    out: str,
    *,
    images: str | None = None,
    max_side: int | None = None,
    workers: int | None = None,
) -> dict:
    """Prepares a data set, or goes on with it; see the module's text.

    Returns:
      The content of report.json: present, kept, dropped by reason, shards, missing shards.

    Raises:
      UserError: a source or folder that cannot be used, a full disk.
    """
    folder = Path(out).expanduser().absolute()
    shards, missing = open_plan(source, images, folder, max_side)
    for path in missing:
        print(f'warning: shard {path} is not there', file=sys.stderr)
    reports = {}
    for index in range(len(shards)):
        path = folder / STATE / f'{index:05}.json'
        if path.exists() and (folder / records.shard_name(index, len(shards))).exists():
            reports[index] = json.loads(path.read_text())
    if reports:
        print(f'{len(reports)} of {len(shards)} shards are done already')

    pool = concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(),
        mp_context=multiprocessing.get_context('spawn'),
        initializer=start_worker,
        initargs=(images,),
    )
    by_rows = images is not None
    weight = [1 if by_rows else os.path.getsize(s.path) for s in shards]
    bar = tqdm.tqdm(
        total=sum(weight), initial=sum(weight[i] for i in reports), desc='Preparing',
        unit=' shards' if by_rows else 'B', unit_scale=not by_rows,
    )  # fmt: skip
    try:
        futures = {
            pool.submit(prepare_shard, shard, index, len(shards), str(folder), max_side): index
            for index, shard in enumerate(shards)
            if index not in reports
        }
        for future in concurrent.futures.as_completed(futures):
            index = futures[future]
            reports[index] = future.result()
            bar.update(weight[index])
            kept = sum(r['kept'] for r in reports.values())
            bar.set_postfix_str(f'{len(reports)}/{len(shards)} shards, {kept} kept')
    except (OSError, RuntimeError) as error:
        raise UserError(
            f'cannot go on with {shards[index].path}: {error}; finished shards are kept: '
            'mend it (space on the disk, rights) and run the same command again'
        ) from error
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)
    return finish(folder, [reports[i] for i in range(len(shards))], missing)


def finish(folder: Path, reports: list[dict], missing: list[str]) -> dict:
    """Writes dropped.jsonl, report.json and, last, what makes the folder a data set."""
    reasons = collections.Counter()
    partial = folder / 'dropped.jsonl.partial'
    with partial.open('w') as file:
        for report in reports:
            reasons.update(report['dropped'])
            file.writelines(json.dumps(sample) + '\n' for sample in report['samples'])
    os.replace(partial, folder / 'dropped.jsonl')
    kept, dropped = sum(r['kept'] for r in reports), sum(reasons.values())
    result = {
        'present': kept + dropped, 'kept': kept, 'dropped': dropped,
        'dropped_by_reason': dict(sorted(reasons.items())), 'shards': len(reports),
        'missing_shards': missing, 'bytes': sum(r['bytes'] for r in reports),
    }  # fmt: skip
    write_json(folder / 'report.json', result)
    if not kept:
        raise UserError(f'none of {dropped} samples could be kept: see {folder / "dropped.jsonl"}')
    records.write_metadata(folder, [r['kept'] for r in reports], result['bytes'])
    return result


def verify(out: str) -> int:
    """Reads every record of a prepared folder again and decodes its image.

    Returns:
      The number of records.

    Raises:
      UserError: a shard that is damaged, a record that does not decode, a count that is off.
    """
    from input_pipeline.sources import open_folder

    folder = Path(out).expanduser().absolute()
    source = open_folder(folder)
    for index in tqdm.tqdm(range(len(source)), desc='Verifying', unit=' records'):
        try:
            record = source[index]
            check_image(record['image'])
            check_caption(record['captions'][0])
        except Exception as error:
            where = source.location(index)
            raise UserError(f'{where} is damaged: {error!r}; delete that shard and its report '
                            f'in {STATE}/, then prepare again') from error  # fmt: skip
    expected = json.loads((folder / 'report.json').read_text())['kept']
    if len(source) != expected:
        raise UserError(f'{folder} holds {len(source)} records, its report.json says {expected}')
    return len(source)


def describe(result: dict, out: str) -> str:
    """The report for the console."""
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
    lines.append(f'Train on it: python main.py --config.data.name=pairs --config.data.dir={out}')
    return '\n'.join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.prepare',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--source', help='tar pattern with braces, folder of tars, or a .tsv')
    parser.add_argument('--images', help='folder of the images of a .tsv')
    parser.add_argument('--out', required=True, help='folder of the prepared data set')
    parser.add_argument('--max_side', type=int, help='scale larger images down to this many pixels')
    parser.add_argument('--workers', type=int, help='processes; all cores where not set')
    parser.add_argument('--verify', action='store_true', help='read all records again, check them')
    return parser.parse_args()


def main() -> None:
    logging.set_verbosity(logging.WARNING)
    args = parse_arguments()
    try:
        for name, least in (('max_side', MIN_SIDE), ('workers', 1)):
            value = getattr(args, name)
            if value is not None and value < least:
                raise UserError(f'--{name}={value} must be at least {least}')
        if not (args.source or args.verify):
            raise UserError("--source is missing: give '.../{00000..01242}.tar' or pairs.tsv")
        if args.source:
            result = prepare(
                args.source,
                args.out,
                images=args.images,
                max_side=args.max_side,
                workers=args.workers,
            )
            print(describe(result, args.out))
        if args.verify:
            print(f'All {verify(args.out)} records of {args.out} are whole')
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('\nstopped: finished shards are kept, the same command goes on')


if __name__ == '__main__':
    main()
