"""Prepares image-text pairs for training: checks and counts them, and writes record shards.

  python -m input_pipeline.prepare --source=PHOTOS --out=DIR [--held_out=0.05] [--max_side=512]
  python -m input_pipeline.prepare --source=pairs.csv [--images=PHOTOS] --out=DIR
  python -m input_pipeline.prepare --source='DIR/{00000..01242}.tar' --out=DIR
  python -m input_pipeline.prepare --verify --out=DIR

--source is a folder of images with a NAME.txt beside each NAME.jpg, or with metadata.csv or .jsonl, or
with folders named after classes (--template='a photo of a {}'); a .csv, .tsv, .jsonl or .parquet, whose
columns are found by their names; COCO captions or Karpathy's splits as .json; or image-text tars.

Shards are processed in parallel, and each is either finished or absent: after an interruption, the
same command continues. The finished folder holds record shards that training reads
(--config.data.dir=DIR), report.json with the numbers of kept and dropped samples, dropped.jsonl, and
word_counts_train.json for --config.text_masking.strategy=frequency. --out=gs://BUCKET/DIR prepares in
a local folder (--scratch) and then copies it to the bucket.
"""

import sys
from pathlib import Path

from absl import flags

from input_pipeline import held_out_split, preparation, prepared_report
from input_pipeline.validate import MIN_SIDE
from pgs.errors import UserError
from pgs.utils import cli

SOURCE = flags.DEFINE_string(
    'source',
    None,
    'Folder of images, tars or parquet files; .csv, .tsv, .jsonl, .parquet, .json; tars as a pattern '
    'with braces.',
)
IMAGES = flags.DEFINE_string(
    'images', None, 'Folder of the images that a table or JSON names; by default its own folder.'
)
IMAGE_KEY = flags.DEFINE_string(
    'image_key', None, 'Column of the images; by default found by its name.'
)
CAPTION_KEY = flags.DEFINE_string(
    'caption_key', None, 'Column of the captions; by default found by its name.'
)
TEMPLATE = flags.DEFINE_string(
    'template',
    None,
    "Caption of the images of a folder of classes, with {} for the class: 'a photo of a {}'.",
)
OUT = flags.DEFINE_string('out', None, 'Folder of the prepared data set, local or gs://.')
SCRATCH = flags.DEFINE_string(
    'scratch', None, 'Local folder of a data set for gs://; by default in ~/.cache/clip_pgs.'
)
HELD_OUT = flags.DEFINE_string(
    'held_out',
    None,
    'Pairs to hold out as validation split: a share (0.01), or about how many (1000).',
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
    held_out = None if HELD_OUT.value is None else held_out_split.parse(HELD_OUT.value)
    if not (SOURCE.value or VERIFY.value):
        raise UserError("--source is missing: a folder, pairs.csv or '.../{00000..01242}.tar'")
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
                image_key=IMAGE_KEY.value,
                caption_key=CAPTION_KEY.value,
                template=TEMPLATE.value,
                max_side=MAX_SIDE.value,
                held_out=held_out,
                workers=WORKERS.value,
            )
            print(prepared_report.describe(result, out))
        if VERIFY.value:
            print(f'All {preparation.verify(out)} records of {out} are intact')
        if in_bucket:
            print(upload.describe(out, OUT.value, upload.upload(Path(out), OUT.value)))
    except KeyboardInterrupt:
        sys.exit('\nstopped: finished shards are kept, the same command continues')


if __name__ == '__main__':
    cli.run(main)
