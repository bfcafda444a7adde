"""The exceptions that end a program with one line."""


class UserError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do about it."""


class Stopped(BaseException):
    """A signal ended the run; the same command resumes it. Exit status 130.

    Like KeyboardInterrupt it is no Exception: code that goes on after the failure of a part, such
    as a figure, does not catch it.
    """
