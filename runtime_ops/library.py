"""Where the compiled operator library is, and how a session gets it."""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

_FILE_NAMES = {"darwin": "libsnn_ops.so", "win32": "snn_ops.dll"}


class MissingLibraryWarning(RuntimeWarning):
    """The package was installed without the library."""


def has_library() -> bool:
    """Whether there is a library to register; without one, models run on their function bodies.

    The first time that there is none a :class:`MissingLibraryWarning` says so. What
    SNN_OPS_LIBRARY names is taken to be there.
    """
    if os.environ.get("SNN_OPS_LIBRARY") or _installed().is_file():
        return True
    _warn_once()
    return False


@cache
def _warn_once() -> None:
    warnings.warn(
        "the C++ kernels are not installed, so networks run on their function bodies, which is "
        "slower and takes more memory; reinstall with a C++ compiler, or from a wheel for this "
        "platform",
        MissingLibraryWarning,
        stacklevel=3,
    )


def library_path() -> Path:
    """Path of the shared library with the C++ kernels, for any language's ONNX Runtime.

    The environment variable SNN_OPS_LIBRARY names another build of it, such as one with sanitizers.

    Raises:
        FileNotFoundError: the package was installed without building the library, or the variable
            names no file.
    """
    if other := os.environ.get("SNN_OPS_LIBRARY"):
        if not Path(other).is_file():
            raise FileNotFoundError(f"SNN_OPS_LIBRARY names no file: {other}")
        return Path(other)
    path = _installed()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent}: reinstall with a C++ compiler (pip install .)"
        )
    return path


@cache
def _installed() -> Path:
    """Where the library is, if it was built."""
    file_name = _FILE_NAMES.get(sys.platform, "libsnn_ops.so")
    return Path(str(resources.files(__package__).joinpath(file_name)))


def register(options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """Let sessions made from ``options`` run the C++ kernels; returns ``options``.

    Without this call the same models run on the function bodies that they carry.
    """
    options.register_custom_ops_library(str(library_path()))
    return options
