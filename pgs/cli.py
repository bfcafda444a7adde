"""Flag parsing with one clear line for a mistake in a config file, a key or a value."""

import difflib
import sys
from pathlib import Path

from absl import flags

from pgs.workdir import flatten

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'


def config_files() -> str:
    return ', '.join(f'configs/{p.name}' for p in sorted(CONFIGS.glob('[a-z]*.py')))


def unknown_key(argv: list[str], known: set[str]) -> str | None:
    """Message for the first --config.KEY that no config has, None where all are known."""
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


def explain(error: BaseException, argv: list[str]) -> str:
    """One line on what is wrong with the flags and what to do."""
    from configs import base

    if isinstance(error, AttributeError | KeyError):
        known = set(flatten(base.get_config().to_dict()))
        if message := unknown_key(argv, known):
            return message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # An error within a config file arrives as the text of its traceback: the last line tells.
    return lines[-1].split('UserError: ')[-1] if lines else type(error).__name__


def parse_flags(argv: list[str]) -> list[str]:
    """A flags_parser for absl's app.run, of a program without a config file: one line for a mistake."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f'error: {" ".join(str(error).split())}; --help lists the flags')


def config_path(argv: list[str]) -> str | None:
    """The file that --config names, without its argument; None where there is no such flag."""
    path = None
    for arg, following in zip(argv, [*argv[1:], ''], strict=True):
        name, equals, value = arg.lstrip('-').partition('=')
        if arg.startswith('-') and name == 'config':
            path = (value if equals else following).rsplit(':', 1)[0]
    return path


def parser(config: flags.FlagHolder, default_file: str):
    """A flags_parser for absl's app.run.

    Args:
      config: the config file's flag, defined without a default: absl would load that file even
        where another is given, and refuse the other's keys.
      default_file: taken where no --config is given.
    """

    def parse(argv: list[str]) -> list[str]:
        path = config_path(argv)
        if path is None:
            argv = [argv[0], f'--config={default_file}', *argv[1:]]
        elif not Path(path).is_file():
            sys.exit(f'error: no config file {path!r}: this project has {config_files()}')
        try:
            rest = flags.FLAGS(argv)
            config.value.lock()  # a file that failed to load says so only here
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            sys.exit(f'error: {explain(error, argv)}')
        if len(rest) > 1:
            sys.exit(f'error: {rest[1]!r} is no flag: take --config.KEY=VALUE, or --help')
        return rest

    return parse
