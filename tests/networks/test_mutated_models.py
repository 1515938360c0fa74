"""A few of the damaged models of ``tests/fuzz/mutate.py``: none crashes, none gives a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).parent.parent / "fuzz" / "mutate.py"


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of its workers")
def test_damaged_models_are_compiled_or_refused():
    result = subprocess.run(
        [sys.executable, str(MUTATE), "--count", "150", "--seed", "7", "--processes", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "150 models" in result.stdout
    assert "exit 0" in result.stdout
    assert "exit 3" in result.stdout
