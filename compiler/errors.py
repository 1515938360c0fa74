"""Every refusal the user can meet, with the exit code of the command line.

Each message says what was found, where, and what to do about it.
"""

from __future__ import annotations


def readable(text: str) -> str:
    """Text with file names in it, such that any stream of UTF-8 takes it.

    Bytes of a name that are not UTF-8, which Python keeps as lone surrogates, become ``\\xff``.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates than those of bytes
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


class SnnCompileError(Exception):
    """Base of all refusals. ``exit_code`` is what the command line exits with."""

    exit_code = 1


class ClusterError(SnnCompileError):
    """Workers or their scheduler were lost, so that the work could not be ended."""


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
