"""The checks of the C++ library that are commands pass; the Makefile has their long forms.

A command that exits with 77 cannot run on this machine: its test skips, for the reason in the last
line of the output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
CANNOT_RUN = 77

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the checks are for Linux"),
]


def output_of(*command, **environment):
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == CANNOT_RUN:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_report_planted_mistakes_and_nothing_else(sanitizer):
    output = output_of("bash", "tests/native/sanitize.sh", sanitizer)
    assert "is reported" in output
    assert output.endswith("sanitize: PASS\n")


def test_random_attributes_shapes_and_values_crash_no_operator():
    # sanitize.sh has those of seed 1.
    assert "fuzz: PASS" in output_of("bash", "tests/native/fuzz.sh", "5", SEED="2")


def test_the_library_runs_on_the_oldest_and_the_newest_runtime():
    output = output_of(sys.executable, "tests/abi/matrix.py", "--releases", "oldest", "newest")
    assert len(re.findall(r"^\| \d", output, re.MULTILINE)) == 2, output
