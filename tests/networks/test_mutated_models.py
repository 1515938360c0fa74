"""A few of the damaged models of ``tests/fuzz/mutate.py``: none crashes, none gives a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).parent.parent / "fuzz" / "mutate.py"


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of its workers")
@pytest.mark.parametrize(
    ("count", "seed"), [(150, 7), pytest.param(500, 0, marks=pytest.mark.slow)]
)
def test_damaged_models_are_compiled_or_refused(count, seed):
    result = subprocess.run(
        [sys.executable, MUTATE, "--count", str(count), "--seed", str(seed), "--processes", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{count} models" in result.stdout
    assert "exit 0" in result.stdout
    assert "exit 3" in result.stdout
