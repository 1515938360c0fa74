"""Every backend test model of the onnx package through the front end: no output changes.

What is asked of each is in ``backend/checks.py``; ``backend/check_models.py`` also compiles them
and writes the table of the documentation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent.parent / "backend"

# As many as the oldest onnx and onnxruntime that are supported have in common.
_AT_LEAST = 800


@pytest.fixture(scope="module")
def outcomes():
    sys.path.insert(0, str(_FOLDER))
    try:
        from cases import all_cases
        from check_models import check_all
    finally:
        sys.path.remove(str(_FOLDER))
    names = [case.name for case in all_cases()]
    return check_all(names, compile_too=False)


def test_no_model_fails(outcomes):
    failures = ("crash", "traceback", "wrong", "invalid")
    failed = [f"{o.name}: {o.outcome}: {o.detail}" for o in outcomes if o.outcome in failures]
    assert failed == []


def test_every_model_that_the_runtime_runs_is_kept(outcomes):
    assert [o.name for o in outcomes if o.outcome == "refused"] == []
    assert len([o for o in outcomes if o.outcome == "same"]) >= _AT_LEAST
