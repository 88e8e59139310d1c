"""The error that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used.

    The message names the setting or file, the value and the remedy; several errors found at once stand one to a line.
    The command line prints it without a traceback.
    """
