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


def outcomes(*, light):
    """What became of the light networks, or of all other cases; none may have failed."""
    sys.path.insert(0, str(_FOLDER))
    try:
        from cases import all_cases
        from check_models import check_all
    finally:
        sys.path.remove(str(_FOLDER))
    names = [case.name for case in all_cases() if (case.kind == "light") == light]
    found = check_all(names, compile_too=False, workers=1)
    failures = ("crash", "traceback", "wrong", "invalid", "refused")
    assert [f"{o.name}: {o.outcome}: {o.detail}" for o in found if o.outcome in failures] == []
    return [o.outcome for o in found]


def test_every_model_that_the_runtime_runs_is_kept():
    assert outcomes(light=False).count("same") >= _AT_LEAST


@pytest.mark.slow
def test_light_networks_are_kept():
    assert set(outcomes(light=True)) == {"same"}
