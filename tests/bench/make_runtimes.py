"""A virtual environment for each runtime of bench_runtimes.py, from the package index of pip.

    python tests/bench/make_runtimes.py FOLDER [--runtimes NAME ...]

FOLDER/NAME is one environment; one that is there with the same requirements stays. A runtime that
cannot be installed is left out, with the last line that pip says. onnxruntime and onnx.reference
run in this Python, onnxruntime-node and onnxruntime-web are installed by bench_runtimes.py with
npm. Some packages bring PyTorch, with libraries of graphics processors on Linux: all take 14 GB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

#: Requirements by runtime. Versions are the ones whose figures docs/runtimes.md has.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino==2026.4.1",),
    "opencv": ("opencv-python-headless==5.0.0.93",),
    "tract": ("tract==0.23.9",),
    "tinygrad": ("tinygrad==0.14.0", "ziglang>=0.13"),  # which compiles for its CPU device
    "onnx2torch": ("onnx2torch==1.5.15", "torch>=2.14"),
    "MNN": ("MNN==3.6.1",),
    "tvm": ("apache-tvm==0.27.0.post1", "onnx>=1.21"),
    "iree": ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx>=1.21"),
    "ncnn": ("ncnn==1.0.20261020", "pnnx==20261020", "torch>=2.14"),  # PyTorch is pnnx's
}

_STAMP = "requirements.txt"
#: Seconds until an installation is given up.
_PATIENCE = 1200
#: tinygrad calls a program of this name; Zig has one inside.
_CLANG = """#!/bin/sh
exec "$(dirname "$0")/python" -m ziglang clang "$@"
"""


def make(name: str, folder: Path, requirements: tuple[str, ...] | None = None) -> str | None:
    """Makes the environment of one runtime; why there is none, or None.

    Args:
        name: a key of ``REQUIREMENTS``, or any with ``requirements``.
        folder: of all environments.
        requirements: instead of those.
    """
    requirements = requirements or REQUIREMENTS[name]
    own, wanted = folder / name, "\n".join(requirements)
    stamp = own / _STAMP
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return None
    venv.create(own, clear=True, with_pip=True)
    python = own / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "numpy>=2", *requirements]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
        said = done.stderr.strip().splitlines() if done.returncode else []
        reason = None if not done.returncode else (said or ["nothing said"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"not installed after {_PATIENCE} s"
    if reason is not None:
        shutil.rmtree(own)
        return reason
    if name == "tinygrad" and shutil.which("clang") is None:
        clang = own / "bin" / "clang"
        clang.write_text(_CLANG, "utf-8")
        clang.chmod(0o755)
    stamp.write_text(wanted, "utf-8")
    return None


def main() -> None:
    """Make all of them, and say which are left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtimes", nargs="+", choices=REQUIREMENTS, default=list(REQUIREMENTS))
    arguments = parser.parse_args()
    for name in arguments.runtimes:
        reason = make(name, arguments.folder)
        print(f"{name}: {f'left out, {reason}' if reason else 'there'}", file=sys.stderr)


if __name__ == "__main__":
    main()
