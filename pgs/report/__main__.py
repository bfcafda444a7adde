"""Prints the paper's tables with our rows below the published ones; the best figures are bold.

  python -m pgs.report results.json [...]
  python -m pgs.report A/results.json B/results.json --markdown=both.md --figure=both.png

Each file is a results.json of `python -m pgs.evaluate` and gives one row. A set that was not scored
is shown as '-', and so is a mean that includes it. The command also writes the tables as Markdown,
and a figure: a radar of the zero-shot classification sets if a row has at least five of them,
otherwise bars of all scored sets.
"""

import functools
import shutil
import sys

from absl import flags

from pgs.errors import UserError
from pgs.report.run import report
from pgs.utils import cli

MARKDOWN = flags.DEFINE_string(
    'markdown', None, 'FILE.md; by default report.md beside the first results file.'
)
FIGURE = flags.DEFINE_string(
    'figure', None, 'FILE.png; by default report.png beside the first results file.'
)


def main(argv: list[str]) -> None:
    paths = argv[1:]
    if not paths:
        raise UserError('no results file\nusage: python -m pgs.report results.json [...]')
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(report(paths, MARKDOWN.value, FIGURE.value, width))


if __name__ == '__main__':
    cli.run(main, functools.partial(cli.parse_flags, positional=sys.maxsize))
