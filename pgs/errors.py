"""The one exception for what a user can mend; main.py prints it as one line and exits with 1."""


class UserError(ValueError):
    """Bad input. The message says what is wrong, where, and what to do."""
