"""The one error that a user can cause: a line that says what, where and what to do. The command line exits with 2."""


class UserError(Exception):
    """Bad input. Its message is one line: what is wrong, where, and what to do about it."""
