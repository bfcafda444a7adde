"""Prepares image-text pairs for training: checks and counts them, and writes record shards.

  python -m input_pipeline.prepare --source='DIR/{00000..01242}.tar' --out=DIR [--max_side=512]
  python -m input_pipeline.prepare --source=pairs.tsv --images=DIR --out=DIR
  python -m input_pipeline.prepare --verify --out=DIR

Shards are processed in parallel, and each is either finished or absent: after an interruption, the
same command continues. The finished folder holds record shards that training reads
(--config.data.dir=DIR), report.json with the numbers of kept and dropped samples, dropped.jsonl, and
word_counts_train.json for --config.text_masking.strategy=frequency. --out=gs://BUCKET/DIR prepares in
a local folder (--scratch) and then copies it to the bucket.
"""

import sys
from pathlib import Path

from absl import flags

from input_pipeline import preparation
from input_pipeline.validate import MIN_SIDE
from pgs.errors import UserError
from pgs.utils import cli

SOURCE = flags.DEFINE_string(
    'source', None, 'Tar pattern with braces, folder of tars, or a .tsv file.'
)
IMAGES = flags.DEFINE_string('images', None, 'Folder of the images of a .tsv file.')
OUT = flags.DEFINE_string('out', None, 'Folder of the prepared data set, local or gs://.')
SCRATCH = flags.DEFINE_string(
    'scratch', None, 'Local folder of a data set for gs://; by default in ~/.cache/clip_pgs.'
)
MAX_SIDE = flags.DEFINE_integer(
    'max_side', None, 'Longest side of an image, pixels; larger images are scaled down.'
)
WORKERS = flags.DEFINE_integer('workers', None, 'Processes; by default one per core.')
VERIFY = flags.DEFINE_bool('verify', False, 'Read all records again and check them.')


def main(argv: list[str]) -> None:
    del argv
    if OUT.value is None:
        raise UserError('--out is missing: give the folder of the prepared data set')
    for name, value, least in (
        ('max_side', MAX_SIDE.value, MIN_SIDE),
        ('workers', WORKERS.value, 1),
    ):
        if value is not None and value < least:
            raise UserError(f'--{name}={value} must be at least {least}')
    if not (SOURCE.value or VERIFY.value):
        raise UserError("--source is missing: give '.../{00000..01242}.tar' or pairs.tsv")
    out = OUT.value
    if in_bucket := '://' in OUT.value:
        from input_pipeline import upload  # imports TensorFlow; workers do without it

        out = str(upload.scratch_folder(OUT.value, SCRATCH.value))
        upload.check_target(OUT.value)
        print(f'Prepares in {out}, then copies to {OUT.value}', flush=True)
    elif SCRATCH.value is not None:
        raise UserError('--scratch is for --out=gs://BUCKET/FOLDER only: leave it out')
    try:
        if SOURCE.value:
            result = preparation.prepare(
                SOURCE.value,
                out,
                images=IMAGES.value,
                max_side=MAX_SIDE.value,
                workers=WORKERS.value,
            )
            print(preparation.describe(result, out))
        if VERIFY.value:
            print(f'All {preparation.verify(out)} records of {out} are intact')
        if in_bucket:
            print(upload.describe(out, OUT.value, upload.upload(Path(out), OUT.value)))
    except KeyboardInterrupt:
        sys.exit('\nstopped: finished shards are kept, the same command continues')


if __name__ == '__main__':
    cli.run(main)
