"""What has to be equal on this machine and on every worker, so that results are."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

#: What is compared besides Python and our own code, the most telling first.
_PACKAGES = ("snn-compile", "onnxruntime", "onnx", "numpy", "distributed", "dask")
_NO = "none"


@cache
def versions() -> Mapping[str, str]:
    """Versions by package, and a digest of our own modules: two checkouts may have one version.

    It is a module's function, so that a worker computes its own.
    """
    from ...runtime_ops import has_library

    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = _NO
    found["code of snn-compile"] = _code()
    found["operator library"] = "there" if has_library() else _NO
    return found


def _code() -> str:
    """Of all modules of the three folders, by name."""
    digest = hashlib.sha256()
    compiler = Path(__file__).parent.parent
    for folder in (compiler, compiler.parent / "passes", compiler.parent / "runtime_ops"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def difference(theirs: Mapping[str, str]) -> str:
    """The first difference from this machine, as a part of a sentence; empty where there is none.

    Args:
        theirs: what :func:`versions` gives elsewhere; what is missing in it is not compared.
    """
    for name, own in versions().items():
        other = theirs.get(name, own)
        if other != own:
            return f"has {name} {other}, and this machine has {own}"
    return ""
