"""Mistakes a user can mend. The scripts print them as one message and end with exit code 2."""


class InputError(ValueError):
    """Something given is wrong: a setting, a file, a folder. The message says what was expected and what was found."""
