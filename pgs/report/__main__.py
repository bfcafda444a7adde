"""Prints the paper's tables with our rows below the published ones; the best figures are bold.

  python -m pgs.report results.json [...]
  python -m pgs.report A/results.json B/results.json --markdown=both.md --figure=both.png

Each file is a results.json of `python -m pgs.evaluate` and gives one row. A set that was not scored
is shown as '-', and so is a mean that includes it. The command also writes the tables as Markdown,
and a figure: a radar of the zero-shot classification sets if a row has at least five of them,
otherwise bars of all scored sets.

  python -m pgs.report RUN [RUN ...]

Folders of runs give one page for a browser instead: curves, scores, masks, what differs between the
configs, environments. It is RUN/report.html, or report.html here for several runs.
"""

import functools
import os
import shutil
import sys

from absl import flags
from etils import epath

from pgs.errors import UserError
from pgs.report.run import output_path, report
from pgs.run import page
from pgs.utils import cli
from pgs.utils.files import absolute

MARKDOWN = flags.DEFINE_string(
    'markdown', None, 'FILE.md; by default report.md beside the first results file.'
)
FIGURE = flags.DEFINE_string(
    'figure', None, 'FILE.png; by default report.png beside the first results file.'
)
HTML = flags.DEFINE_string(
    'html', None, 'FILE.html of runs; by default report.html in the run, for several here.'
)


def run_page(folders: list[str]) -> epath.Path:
    """Writes the page of runs; returns its path."""
    runs = page.read_runs(folders, lambda line: print(line, file=sys.stderr, flush=True))
    beside = os.path.join(folders[0], page.FILE) if len(folders) == 1 else page.FILE
    path = output_path(HTML.value, '--html', beside, '.html')
    page.write_page(runs, path)
    return path


def main(argv: list[str]) -> None:
    paths = argv[1:]
    if not paths:
        raise UserError(
            'no results file and no run\nusage: python -m pgs.report results.json [...], or '
            'python -m pgs.report RUN [RUN ...]'
        )
    folders = [path for path in paths if absolute(path).is_dir()]
    if folders and len(folders) < len(paths):
        raise UserError(
            f'{folders[0]} is a folder and others are files: give runs or results files'
        )
    if folders:
        print(f'Page: {run_page(folders)}')
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(report(paths, MARKDOWN.value, FIGURE.value, width))


if __name__ == '__main__':
    cli.run(main, functools.partial(cli.parse_flags, positional=sys.maxsize))
