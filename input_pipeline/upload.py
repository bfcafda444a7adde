"""`prepare --out=gs://...`: a data set is prepared in a local folder, then copied to a bucket.

Each object appears when it is complete. What makes the folder a data set, dataset_info.json, is
copied last; so a run never opens a part of it. The local folder notes each file that was copied; what
is noted, and has its size in the bucket, is not copied again.
"""

import concurrent.futures
import os
from pathlib import Path

import tensorflow as tf
import tqdm

from input_pipeline import buckets
from pgs.errors import UserError

UPLOADS = 4  # files that are copied at once; TensorFlow keeps a second copy of each in TMPDIR
LAST = 'dataset_info.json'
NOTES = '.uploaded'  # in the local folder: a line with the address of each copy


def scratch_folder(out: str, scratch: str | None) -> Path:
    """The local folder in which a data set for a bucket is prepared.

    Args:
      out: gs:// address of the data set.
      scratch: as the user gave it; None: a folder by the name of the address in the cache folder.

    Raises:
      UserError: an address without a bucket or folder.
    """
    buckets.check_scheme(f'--out={out}', out)
    name = out.removeprefix(buckets.SCHEME).strip('/')
    if '/' not in name:
        raise UserError(f'--out={out} names no folder: give gs://BUCKET/FOLDER')
    folder = scratch or os.path.join('~/.cache/clip_pgs/prepare', name.replace('/', '_'))
    return Path(folder).expanduser().absolute()


def check_target(out: str) -> None:
    """Checks before the work starts that a bucket can be read.

    Raises:
      UserError: a bucket that does not exist, without credentials for it, or out of reach.
    """
    buckets.exists(f'cannot write --out={out}', f'{out.rstrip("/")}/{LAST}')


def upload(folder: Path, out: str) -> int:
    """Copies a finished data set to a bucket, or continues after an interruption.

    Args:
      folder: as `preparation.prepare` leaves it.
      out: gs:// address of the copy.

    Returns:
      Number of files that were copied; those of the preparation's own state are left out.

    Raises:
      UserError: an address that holds another data set, or that cannot be written.
    """
    out = out.rstrip('/')
    files = {p.name: p for p in folder.iterdir() if p.is_file() and p.name != NOTES}
    if LAST not in files:
        raise UserError(f'{folder} is not a finished data set: prepare it again')
    what = f'cannot write --out={out}'
    with buckets.errors_named(what):
        present = sizes_in(out)
        check_same(files, present, out)
        # Sizes alone would not do: those of shards are multiples of 64 KiB.
        notes = folder / NOTES
        noted = set(notes.read_text().splitlines()) if notes.exists() else set()
        done = {n for n, size in present.items() if size == files[n].stat().st_size} & {
            name for name in files if f'{out}/{name}' in noted
        }
        missing = sorted(files.keys() - done - {LAST})
        size = sum(files[name].stat().st_size for name in missing)
        pool = concurrent.futures.ThreadPoolExecutor(UPLOADS)
        bar = tqdm.tqdm(total=size, desc='Uploading', unit='B', unit_scale=True)
        with bar, notes.open('a') as journal:
            try:
                copies = pool.map(lambda n: copy(files[n], f'{out}/{n}'), missing)
                for name, count in zip(missing, copies, strict=True):
                    print(f'{out}/{name}', file=journal, flush=True)
                    bar.update(count)
            finally:
                pool.shutdown(cancel_futures=True)
        copy(files[LAST], f'{out}/{LAST}')
    return len(missing) + 1


def sizes_in(out: str) -> dict[str, int]:
    """{name: bytes} of the files of a folder of a bucket; {} where there is none."""
    try:
        names = tf.io.gfile.listdir(out)
    except tf.errors.NotFoundError as error:
        if 'response code 404' in str(error):  # no bucket
            raise
        return {}
    files = [name for name in names if name and not name.endswith('/')]
    with concurrent.futures.ThreadPoolExecutor(UPLOADS) as pool:
        stats = pool.map(lambda name: tf.io.gfile.stat(f'{out}/{name}').length, files)
        return dict(zip(files, stats, strict=True))


def check_same(files: dict[str, Path], present: dict[str, int], out: str) -> None:
    """Checks that a folder of a bucket holds nothing but a part of this data set.

    Raises:
      UserError: other files, or the end of another preparation.
    """
    other = sorted(present.keys() - files.keys())
    if other:
        raise UserError(f'--out={out} holds other files, such as {other[0]}: give a new folder')
    if LAST in present and tf.io.gfile.GFile(f'{out}/{LAST}', 'rb').read() != (
        files[LAST].read_bytes()
    ):
        raise UserError(f'--out={out} holds another data set: give a new folder, or delete it')


def copy(path: Path, address: str) -> int:
    """Copies a file to a bucket; returns its size.

    Raises:
      OSError: the object has another size afterwards.
    """
    tf.io.gfile.copy(os.fspath(path), address, overwrite=True)
    size, found = path.stat().st_size, tf.io.gfile.stat(address).length
    if found != size:
        raise OSError(f'{address} has {found} bytes, but {path} {size}')
    return size


def describe(folder: str, out: str, copied: int) -> str:
    """What was done, for the console."""
    return (
        f'{copied} files copied to {out}\n'
        f'{folder} is not needed any more: delete it\n'
        f'Train on it: python main.py --config.data.name=pairs --config.data.dir={out} '
        '--config.data.shuffle=window'
    )
