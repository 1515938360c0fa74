"""What half and twice the levels would do: estimates against networks compiled with them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from snn_compile.compiler import cli, compile_model
from snn_compile.compiler.calibration.other_levels import Ratios
from snn_compile.compiler.report.hints import LevelsEstimate, estimates, hint
from snn_compile.compiler.running.fidelity import FidelityMeter, OutputFidelity
from snn_compile.compiler.verify import Verification

CALIBRATION = MODELS / "digits_calibration.npz"
#: Bounds that docs/search.md states.
ERROR, AGREEMENT, SPIKES = 0.25, 0.03, 0.2


@pytest.fixture(scope="module", params=["digits_resnet_dynamo", "digits_vit_dynamo"])
def reports(request):
    """Of one network compiled with several numbers of levels."""
    model = onnx.load(MODELS / f"{request.param}.onnx")
    return {n: compile_model(model, CALIBRATION, levels=n).report for n in (4, 8, 16, 32)}


def test_estimates_are_in_the_right_direction_and_within_the_bounds(reports):
    for levels, report in reports.items():
        (own,) = report.verification.outputs
        for estimate in report.other_levels:
            assert estimate.levels in (levels // 2, 2 * levels)
            fewer = estimate.levels < levels
            assert (estimate.relative_error > own.relative_l2) == fewer
            assert estimate.spikes is None or (estimate.spikes < 1) == fewer
            if estimate.levels not in reports:
                continue
            (there,) = reports[estimate.levels].verification.outputs
            assert estimate.relative_error == pytest.approx(there.relative_l2, rel=ERROR)
            assert estimate.agreement == pytest.approx(there.agreement, abs=AGREEMENT)


def test_spikes_of_levels_that_are_multiples_follow(digits_calibration):
    model = onnx.load(MODELS / "digits_resnet_dynamo.onnx")
    reports = {n: compile_model(model, digits_calibration, levels=n).report for n in (16, 32)}

    def spikes(report):
        return sum(neuron.spikes_per_value for neuron in report.verification.neurons)

    for levels, other in ((32, 16), (16, 32)):
        (found,) = [e for e in reports[levels].other_levels if e.levels == other]
        ratio = spikes(reports[other]) / spikes(reports[levels])
        assert found.spikes == pytest.approx(ratio, rel=SPIKES)


def test_a_staircase_has_no_estimate_of_spikes():
    report = compile_model(
        MODELS / "digits_resnet_dynamo.onnx", CALIBRATION, neuron="staircase"
    ).report
    assert [estimate.spikes for estimate in report.other_levels] == [None, None]


@pytest.mark.parametrize(
    "options",
    [{"timesteps": 4}, {"target": "int8"}, {"levels_budget": 0.5}],
)
def test_where_the_number_is_not_the_users_nothing_is_estimated(options):
    model = MODELS / "plain" / "mixer_2.onnx"
    with np.load(CALIBRATION) as images:
        data = {"x": images["image"][:64]}
    assert compile_model(model, data, **options).report.other_levels == []
    assert compile_model(model, data).report.other_levels


def test_made_up_samples_give_no_advice():
    assert compile_model(MODELS / "plain" / "cnn_1.onnx").report.other_levels == []


def test_agreement_at_half_and_twice_the_differences():
    reference = np.array([[3.0, 1.0], [3.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    other = np.array([[3.0, 2.5], [2.0, 2.1], [0.0, 1.0], [-2.0, 4.5]])
    meter = FidelityMeter("y")
    meter.add(reference[:3], other[:3])
    meter.add(reference[3:], other[3:])
    found = meter.result()
    expected = [
        np.mean((reference + f * (other - reference)).argmax(1) == reference.argmax(1))
        for f in (0.5, 1.0, 2.0)
    ]
    assert expected == [0.75, 0.5, 0.25]
    assert [found.agreement_at_half, found.agreement, found.agreement_at_double] == expected


def verified(*outputs):
    return Verification(10, [], list(outputs), [])


def test_estimates_from_ratios():
    outputs = [
        OutputFidelity("a", 1.0, 0.1, 0.9, None, 0.95, 0.7),
        OutputFidelity("b", 1.0, 0.2, None, None),
    ]
    found = estimates(15, (Ratios(1.5, 0.4), Ratios(0.5, None)), verified(*outputs))
    assert found == [
        LevelsEstimate(7, pytest.approx(0.3), pytest.approx(0.8), 0.4),
        LevelsEstimate(31, pytest.approx(0.1), 0.95, None),
    ]
    (more,) = estimates(1, (Ratios(2, 0.5), Ratios(0.5, 2)), verified(*outputs))
    assert more.levels == 3
    assert estimates(8, (Ratios(2, 0.5), Ratios(0.5, 2)), verified()) == []


@pytest.mark.parametrize(
    ("fewer", "own", "more", "said"),
    [
        (0.992, 0.999, 1.0, "16 levels keep about 99.2% agreement, 0.5 x the spikes: "
         "--levels 16"),
        (0.97, 0.97, 0.97, "16 levels keep about 97.0% agreement, 0.5 x the spikes: "
         "--levels 16"),
        (0.90, 0.95, 0.98, "64 levels keep about 98.0% agreement, 2 x the spikes: "
         "--levels 64"),
        (0.98, 0.995, 0.996, "16 levels keep about 98.0% agreement, 0.5 x the spikes; "
         "64 levels keep about 99.6% agreement, 2 x the spikes"),
        (None, None, None, "16 levels err by about 0.1, 0.5 x the spikes; 64 levels "
         "err by about 0.025, 2 x the spikes"),
    ],
)  # fmt: skip
def test_what_is_advised(fewer, own, more, said):
    found = [LevelsEstimate(16, 0.1, fewer, 0.5), LevelsEstimate(64, 0.025, more, 2.0)]
    advice = hint(found, own)
    assert advice.startswith("estimate") and advice.partition(": ")[2] == said
    assert hint([], own) == ""


def test_the_command_ends_with_it(tmp_path):
    arguments = [str(MODELS / "digits_resnet_dynamo.onnx"), "--calibration", str(CALIBRATION)]
    arguments += ["-o", str(tmp_path / "snn.onnx"), "--report", str(tmp_path / "report.json")]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-1]
    assert last.startswith("estimate: 16 levels keep about ")
    assert last.endswith(": --levels 16")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["levels"] for one in report["other_levels"]] == [16, 64]
    quiet = CliRunner().invoke(cli.main, [*arguments, "-q"])
    assert quiet.stdout == ""
