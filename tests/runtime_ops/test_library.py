"""The shared library as a file: what it exports, what it needs, how it is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from snn_compile.runtime_ops import library_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")


def tool(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]} (binutils)")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_exports_one_symbol():
    symbols = tool("nm", "-D", "--defined-only", str(library_path())).split()
    assert symbols[2::3] == ["RegisterCustomOps"]


def test_needs_only_the_c_library():
    """No C++ runtime and no onnxruntime: it loads wherever one of its users does."""
    dynamic = tool("readelf", "-d", str(library_path()))
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_is_small(tmp_path):
    stripped = tmp_path / "stripped.so"
    tool("strip", "-o", str(stripped), str(library_path()))
    assert stripped.stat().st_size <= 100_000


def test_stays_where_it_is_when_a_host_closes_it_early():
    """A runtime's sessions call into it as long as they live, whoever holds the handle."""
    program = f"""
import _ctypes, ctypes, os
library = ctypes.CDLL({str(library_path())!r})
_ctypes.dlclose(library._handle)
ctypes.CDLL({str(library_path())!r}, mode=os.RTLD_NOLOAD)  # an OSError where it is gone
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_environment_names_another_build(tmp_path, monkeypatch):
    other = shutil.copy(library_path(), tmp_path / "other.so")
    monkeypatch.setitem(os.environ, "SNN_OPS_LIBRARY", str(other))
    assert library_path() == other
    monkeypatch.setitem(os.environ, "SNN_OPS_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(FileNotFoundError, match=r"SNN_OPS_LIBRARY names no file: .*none.so"):
        library_path()
