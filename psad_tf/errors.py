"""The one error a user's mistake raises: the command line prints it as one line and exits with 2."""

from __future__ import annotations


class InputError(ValueError):
    """Something given to PSAD-TF (a file, a record, a key, an option) is wrong.

    The message is one line that names what is wrong, where, and what to do about it. `psad` prints it
    after `psad: ` and exits with code 2; library users catch it like any `ValueError`.
    """
