"""Networks trained without BatchNormalization keep their answers without calibration data."""

from __future__ import annotations

import onnx
import pytest
from bench_datafree import PLAIN, compiled, standard_normal, top1

#: Points of top-1; two seeds of standard normal samples differ by as much.
NOISE = 1.0
NAMES = [path.stem for path in PLAIN]


def test_every_kind_is_there():
    assert {name.split("_")[0] for name in NAMES} == {"cnn", "tcn", "mixer", "attention"}


@pytest.mark.parametrize("path", PLAIN, ids=NAMES)
def test_top_1_is_within_3_points_and_no_worse_than_with_standard_normal_samples(path):
    model = onnx.load(path)
    result = compiled(model)
    found = top1(result.model, model)
    assert found >= top1(model) - 3
    assert found >= top1(compiled(model, standard_normal(model)).model, model) - NOISE
    assert any("give real samples with --calibration" in text for text in result.report.warnings)
