"""Lists, verifies and prunes the checkpoints of a run; restores a lost config.json.

  python -m pgs.checkpoint list DIR             # steps, sizes, times
  python -m pgs.checkpoint verify DIR           # compares all files with their checksums
  python -m pgs.checkpoint prune DIR --keep=2   # deletes all but the newest intact ones
  python -m pgs.checkpoint restore-config DIR   # from the newest checkpoint that holds it

DIR is the --workdir of main.py.
"""

import functools

from absl import flags

from pgs.errors import UserError
from pgs.run import stored
from pgs.utils import cli

KEEP = flags.DEFINE_integer('keep', 2, 'Number of intact checkpoints that prune keeps.')
ACTIONS = ('list', 'verify', 'prune', 'restore-config')


def main(argv: list[str]) -> None:
    if len(argv) != 3 or argv[1] not in ACTIONS:
        raise UserError(f'give an action ({", ".join(ACTIONS)}) and the folder of a run')
    _, action, folder = argv
    if action == 'list':
        lines = stored.list_checkpoints(folder)
    elif action == 'verify':
        lines = stored.verify(folder)
    elif action == 'prune':
        lines = stored.prune(folder, keep=KEEP.value)
    else:
        lines = [stored.restore_config(folder)]
    print('\n'.join(lines))


if __name__ == '__main__':
    cli.run(main, functools.partial(cli.parse_flags, positional=2))
