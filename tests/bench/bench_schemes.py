"""Exact ways to find a level among 31, 63 and 255 thresholds, compared on one thread.

python tests/bench/bench_schemes.py

Needs a C++ compiler (c++ or $CXX); each instruction set this processor has is measured.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("schemes.cc")
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mf16c"],
    "avx512": [
        *("-mavx2", "-mf16c", "-mavx512f", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ],
}


def has(instruction_set: str) -> bool:
    """Whether this processor executes it, as Linux tells."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    wanted = {"baseline": [], "avx2": ["avx2", "f16c"], "avx512": ["avx512f", "avx512dq"]}
    return all(flag in flags for flag in wanted[instruction_set])


def main() -> None:
    """Build and run, one instruction set after the other."""
    compiler = os.environ.get("CXX", "c++")
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in INSTRUCTION_SETS.items():
            if not has(name):
                print(f"{name}: not on this processor")
                continue
            program = Path(folder) / name
            command = [compiler, *FLAGS, *flags, f"-DSNN_ISA={name}", str(SOURCE), "-o", program]
            subprocess.run(command, check=True)
            print(name, flush=True)
            subprocess.run([program], check=True)


if __name__ == "__main__":
    main()
