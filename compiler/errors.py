"""Every refusal the user can meet, with the exit code of the command line.

Each message says what was found, where, and what to do about it.
"""

from __future__ import annotations


class SnnCompileError(Exception):
    """Base of all refusals. ``exit_code`` is what the command line exits with."""

    exit_code = 1


class UsageError(SnnCompileError):
    """An option or a path given by the user cannot be used."""

    exit_code = 2


class ModelError(SnnCompileError):
    """The model is refused: unreadable, unsafe, unsupported, or nothing to convert."""

    exit_code = 3


class DataError(SnnCompileError):
    """The calibration or test data are refused: name, shape, type, NaN or inf, empty."""

    exit_code = 4


class VerificationError(SnnCompileError):
    """The compiled model falls short of what was asked; nothing was written."""

    exit_code = 5
