"""Summarises a prepared data set: number of records, sizes, caption lengths, broken records.

  python -m input_pipeline.inspect DIR [--sheet=FILE.png] [--sample=10000]

DIR is a folder that input_pipeline.prepare wrote. Also draws a contact sheet of some records.
"""

import functools

from absl import flags

from input_pipeline import inspection
from pgs.errors import UserError
from pgs.utils import cli

SHEET = flags.DEFINE_string('sheet', None, 'Contact sheet; by default DIR/contact_sheet.png.')
SAMPLE = flags.DEFINE_integer('sample', 10_000, 'Records to read, spread evenly over the set.')


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError('DIR is missing: give the folder of a prepared data set')
    if SAMPLE.value < 1:
        raise UserError(f'--sample={SAMPLE.value} must be at least 1')
    print(inspection.inspect(argv[1], SHEET.value, SAMPLE.value))


if __name__ == '__main__':
    cli.run(main, functools.partial(cli.parse_flags, positional=1))
