"""The exception for bad input; every program prints it as one line and exits with status 1."""


class UserError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do about it."""
