"""The exceptions that end a program with one line."""

import difflib
from collections.abc import Iterable

LONGEST = 1000  # characters of a message


class UserError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do about it.

    It is one line, whatever names of files and values from files it quotes: line breaks become
    spaces, what cannot be encoded a question mark, and the middle of a long one is left out.
    """

    def __init__(self, message: str):
        line = ' '.join(message.splitlines()).encode(errors='replace').decode()
        half = LONGEST // 2 - 3
        super().__init__(line if len(line) <= LONGEST else f'{line[:half]} ... {line[-half:]}')


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'did you mean NEAREST? ' for a name that is not among the known ones; '' if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'did you mean {near[0]}? ' if near else ''


class Stopped(BaseException):
    """A signal ended the run; the same command resumes it. Exit status 130.

    Like KeyboardInterrupt it is no Exception: code that goes on after the failure of a part, such
    as a figure, does not catch it.
    """
