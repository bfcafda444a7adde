"""Command lines: flags, and one clear line for a mistake in a flag, a config file or the input."""

import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from pgs.errors import UserError
from pgs.utils import exits

flags.disclaim_key_flags()  # flags defined here belong to the program that asks for them, in --help

HELP_FLAGS = {
    f'{dashes}{name}' for dashes in ('-', '--') for name in ('help', 'helpshort', 'helpfull', 'h')
}
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def run(
    main: Callable[[list[str]], None],
    parse: Callable[[list[str]], list[str]] | None = None,
    *,
    verbosity: int = logging.WARNING,
) -> None:
    """Runs a program; exits with status 1 and one line `error: ...` for a UserError.

    Args:
      main: called with the program's name and its positional arguments.
      parse: a flags parser, see `parse_flags` (the default) and `config_parser`.
      verbosity: of the libraries' log messages.
    """

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(verbosity)
        try:
            main(argv)
        except UserError as error:
            sys.exit(f'error: {error}')

    try:
        app.run(guarded, flags_parser=parse or parse_flags)
    except SystemExit as exit_:
        # absl exits with 1 after --help, as after a mistake.
        code = 0 if HELP_FLAGS & set(sys.argv[1:]) and exit_.code == 1 else exit_.code
        exits.set_status(code)
        sys.exit(code)
    except BaseException:
        exits.set_status('an error without a line of its own')
        raise


def define_checkpoint_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """--checkpoint and --model_config, of programs that use a trained model."""
    return (
        flags.DEFINE_string(
            'checkpoint', None, 'The model: a run folder, a folder of weights or an OpenCLIP file.'
        ),
        flags.DEFINE_string(
            'model_config', None, "OpenCLIP's model JSON, for a file of weights without one."
        ),
    )


def parse_flags(argv: list[str], *, positional: int = 0) -> list[str]:
    """A flags parser for a program without a config file.

    Args:
      argv: the program's name, then its arguments.
      positional: number of arguments without a dash that it takes.
    """
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f'error: {" ".join(str(error).split())}; --help lists the flags')
    if len(rest) > 1 + positional:
        sys.exit(f'error: {rest[1 + positional]!r} is not a flag; --help lists the flags')
    return rest


def config_parser(config: flags.FlagHolder, default_file: str) -> Callable[[list[str]], list[str]]:
    """A flags parser for a program with --config=FILE and --config.KEY=VALUE.

    Args:
      config: the config file's flag, defined without a default: absl would load that file even
        where another one is given, and refuse the other's keys.
      default_file: used where no --config is given.
    """

    def parse(argv: list[str]) -> list[str]:
        path = config_path(argv)
        if path is None:
            argv = [argv[0], f'--config={default_file}', *argv[1:]]
        elif not Path(path).is_file():
            sys.exit(f'error: no config file {path!r}: this project has {config_files()}')
        try:
            rest = flags.FLAGS(argv)
            config.value.lock()  # a file that failed to load raises only here
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            sys.exit(f'error: {explain(error, argv)}')
        if len(rest) > 1:
            sys.exit(f'error: {rest[1]!r} is not a flag: give --config.KEY=VALUE, or --help')
        return rest

    return parse


def config_files() -> str:
    """The config files of this project, by comma."""
    paths = sorted(CONFIGS.glob('[a-z]*.py'))
    here = CONFIGS.parent == Path.cwd()
    return ', '.join(f'configs/{p.name}' if here else str(p) for p in paths)


def config_path(argv: list[str]) -> str | None:
    """The file that --config names, without its argument; None where there is no such flag."""
    path = None
    for arg, following in zip(argv, [*argv[1:], ''], strict=True):
        name, equals, value = arg.lstrip('-').partition('=')
        if arg.startswith('-') and name == 'config':
            path = (value if equals else following).split(':', 1)[0]  # as ml_collections does
    return path


def explain(error: BaseException, argv: list[str]) -> str:
    """One line on what is wrong with the flags and what to do."""
    from flax.traverse_util import flatten_dict  # only here: it imports JAX

    from configs import base

    if isinstance(error, AttributeError | KeyError):
        known = set(flatten_dict(base.get_config().to_dict(), sep='.'))
        if message := unknown_key(argv, known):
            return message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # An error within a config file arrives as the text of its traceback; its last line is the error.
    return lines[-1].split('UserError: ')[-1] if lines else type(error).__name__


def unknown_key(argv: list[str], known: set[str]) -> str | None:
    """A message for the first --config.KEY that no config has; None where all are known."""
    for arg in argv:
        if not arg.startswith('--config.'):
            continue
        key = arg.removeprefix('--config.').split('=')[0]
        if key in known:
            continue
        by_end = [k for k in known if k.split('.')[-1] == key.split('.')[-1]]
        near = by_end or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f'did you mean config.{near[0]}? ' if near else ''
        return f'config.{key} is unknown: {hint}configs/base.py lists every key'
    return None
