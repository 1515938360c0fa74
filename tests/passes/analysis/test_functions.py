"""Each activation's function against the runtime's own kernel, and the refusals."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import run_model
from snn_compile.passes.analysis.functions import (
    ActivationFunction,
    NotANeuron,
    activation_function,
)
from snn_compile.passes.graph.graph import ANN_DOMAIN
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.recognise.ann_functions import ann_function

_LARGE = np.logspace(1.4, 9, 40)
_X = np.concatenate([-_LARGE[::-1], np.linspace(-25, 25, 4001), _LARGE]).astype(np.float32)


def _model(node: str, weights: str = "", opset: int = 17) -> onnx.ModelProto:
    domains = f'["" : {opset}, "com.microsoft" : 1, "{ANN_DOMAIN}" : 1]'
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: {domains}>\n"
        f"g (float[n] x) => (float[n] y) <{weights}> {{ y = {node} }}"
    )
    if model.graph.node[0].domain == ANN_DOMAIN:
        model.functions.append(ann_function(model.graph.node[0].op_type, opset))
    return model


def _function(model: onnx.ModelProto) -> ActivationFunction:
    return activation_function(import_model(model).nodes[0])


def _runs_opset_24() -> bool:
    return tuple(int(part) for part in ort.__version__.split(".")[:2]) >= (1, 24)


CASES = {
    "Identity": ("Identity (x)", "", 17, True),
    "Relu": ("Relu (x)", "", 17, True),
    "Clip between two bounds": (
        "Clip (x, low, high)",
        "float low = {-1.5}, float high = {6}",
        17,
        False,
    ),
    "Clip from below": ("Clip (x, low)", "float low = {0.25}", 17, False),
    "Clip from above": ("Clip (x, , high)", "float high = {3}", 17, False),
    "Clip from below at 0": ("Clip (x, low)", "float low = {0}", 17, True),
    "Clip from above at 0": ("Clip (x, , high)", "float high = {0}", 17, True),
    "Clip without bounds": ("Clip (x)", "", 17, True),
    "Clip at the largest float32": (
        "Clip (x, low, high)",
        "float low = {0}, float high = {3.4028234663852886e38}",
        17,
        True,
    ),
    "LeakyRelu": ("LeakyRelu (x)", "", 17, True),
    "LeakyRelu 0.3": ("LeakyRelu <alpha: float = 0.3> (x)", "", 17, True),
    "LeakyRelu above 1": ("LeakyRelu <alpha: float = 1.5> (x)", "", 17, True),
    "LeakyRelu 0": ("LeakyRelu <alpha: float = 0.0> (x)", "", 17, True),
    "PRelu": ("PRelu (x, slope)", "float[1] slope = {-0.4}", 17, True),
    "ThresholdedRelu": ("ThresholdedRelu (x)", "", 17, False),
    "ThresholdedRelu 0.5": ("ThresholdedRelu <alpha: float = 0.5> (x)", "", 17, False),
    "ThresholdedRelu 0": ("ThresholdedRelu <alpha: float = 0.0> (x)", "", 17, True),
    "Elu": ("Elu (x)", "", 17, False),
    "Elu 0.7": ("Elu <alpha: float = 0.7> (x)", "", 17, False),
    "Elu 0": ("Elu <alpha: float = 0.0> (x)", "", 17, True),
    "Selu": ("Selu (x)", "", 17, False),
    "Selu other": ("Selu <alpha: float = 1.2, gamma: float = 0.8> (x)", "", 17, False),
    "Celu": ("Celu (x)", "", 17, False),
    "Celu 0.6": ("Celu <alpha: float = 0.6> (x)", "", 17, False),
    "Softplus": ("Softplus (x)", "", 17, False),
    "Softsign": ("Softsign (x)", "", 17, False),
    "Sigmoid": ("Sigmoid (x)", "", 17, False),
    "Tanh": ("Tanh (x)", "", 17, False),
    "HardSigmoid": ("HardSigmoid (x)", "", 17, False),
    "HardSigmoid other": ("HardSigmoid <alpha: float = 0.4, beta: float = 0.3> (x)", "", 17, False),
    "HardSwish": ("HardSwish (x)", "", 17, False),
    "Swish": ("Swish (x)", "", 24, False),
    "Swish 1.7": ("Swish <alpha: float = 1.7> (x)", "", 24, False),
    "Mish": ("Mish (x)", "", 18, False),
    "Gelu": ("Gelu (x)", "", 20, False),
    "Gelu tanh": ('Gelu <approximate: string = "tanh"> (x)', "", 20, False),
    "Erf": ("Erf (x)", "", 17, False),
    "Shrink": ("Shrink (x)", "", 17, False),
    "Shrink soft": ("Shrink <lambd: float = 0.7, bias: float = 0.7> (x)", "", 17, False),
    "Shrink nothing": ("Shrink <lambd: float = 0.0> (x)", "", 17, True),
    "Microsoft Gelu": ("com.microsoft.Gelu (x)", "", 17, False),
    "FastGelu": ("com.microsoft.FastGelu (x)", "", 17, False),
    "QuickGelu": ("com.microsoft.QuickGelu (x)", "", 17, False),
    "QuickGelu 1": ("com.microsoft.QuickGelu <alpha: float = 1.0> (x)", "", 17, False),
    "function Gelu": (f"{ANN_DOMAIN}.Gelu (x)", "", 15, False),
    "function GeluTanh": (f"{ANN_DOMAIN}.GeluTanh (x)", "", 15, False),
    "function Swish": (f"{ANN_DOMAIN}.Swish (x)", "", 15, False),
    "function Swish 2": (f"{ANN_DOMAIN}.Swish <alpha: float = 2.0> (x)", "", 22, False),
    "function Swish 0": (f"{ANN_DOMAIN}.Swish <alpha: float = 0.0> (x)", "", 22, True),
    "function Mish": (f"{ANN_DOMAIN}.Mish (x)", "", 16, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_function_is_the_runtimes(case: str) -> None:
    node, weights, opset, _ = CASES[case]
    if opset == 24 and not _runs_opset_24():
        pytest.skip("this runtime is older than the operator")
    model = _model(node, weights, opset)
    [expected] = run_model(model, {"x": _X})
    values = _function(model).evaluate(_X.astype(np.float64))
    assert values.dtype == np.float64
    # The runtime computes in float32: erf and tanh near -1 leave x times a rounding error.
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("case", CASES)
def test_homogeneous_means_that_a_scale_passes_through(case: str) -> None:
    node, weights, opset, homogeneous = CASES[case]
    function = _function(_model(node, weights, opset))
    assert function.homogeneous == homogeneous
    x = _X[np.abs(_X) < 25].astype(np.float64)
    passes = [
        np.allclose(function.evaluate(a * x), a * function.evaluate(x), rtol=1e-12, atol=0)
        for a in (0.37, 5.0)
    ]
    assert all(passes) == homogeneous


@pytest.mark.parametrize("case", CASES)
def test_no_warning_and_no_nan_up_to_infinity(case: str) -> None:
    node, weights, opset, _ = CASES[case]
    x = np.array([-np.inf, -1e308, -1e30, 0.0, 1e30, 1e308, np.inf])
    with np.errstate(all="raise"):
        values = _function(_model(node, weights, opset)).evaluate(x)
    assert not np.any(np.isnan(values))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4)])
@pytest.mark.parametrize("case", CASES)
def test_any_shape(case: str, shape: tuple[int, ...]) -> None:
    node, weights, opset, _ = CASES[case]
    assert _function(_model(node, weights, opset)).evaluate(np.ones(shape)).shape == shape


def test_the_tails_of_gelu_are_accurate() -> None:
    """The textbook formula gives 0 below -8.3 in float64; the function is not 0 there."""
    gelu = _function(_model("Gelu (x)", opset=20))
    # x / 2 * erfc(-x / sqrt 2) at x = -10, from tables of the normal distribution: 7.61985e-24
    np.testing.assert_allclose(gelu.evaluate(np.array(-10.0)), -7.61985302416e-23, rtol=1e-9)


REFUSED = {
    "slope per channel": ("PRelu (x, s)", "float[2] s = {0.1, 0.2}", "slope is not a single value"),
    "slope infinite": ("PRelu (x, s)", "float[1] s = {inf}", "its slope is inf"),
    "slope not constant": ("PRelu (x, x)", "", "slope is not constant"),
    "bound not constant": ("Clip (x, x)", "", "lower bound is not constant"),
    "bound of nan": ("Clip (x, , h)", "float h = {nan}", "upper bound is nan"),
    "crossed bounds": ("Clip (x, l, h)", "float l = {2}, float h = {1}", "2 is above"),
    "alpha of nan": ("Elu <alpha: float = nan> (x)", "", "its alpha is nan"),
    "Celu of 0": ("Celu <alpha: float = 0.0> (x)", "", "divides by"),
    "FastGelu with bias": ("com.microsoft.FastGelu (x, b)", "float[1] b = {1}", "bias of its own"),
    "Softmax": ("Softmax (x)", "", "Softmax is not a known activation function"),
    "Microsoft's other": ("com.microsoft.BiasGelu (x, x)", "", "not a known activation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str) -> None:
    node, weights, reason = REFUSED[case]
    with pytest.raises(NotANeuron, match=reason):
        _function(_model(node, weights))


def test_an_operator_of_another_domain_is_not_onnx_s_own() -> None:
    model = _model("Relu (x)")
    model.graph.node[0].domain = "org.example"
    with pytest.raises(NotANeuron, match=r"operator of the domain org\.example"):
        _function(model)


def test_an_unknown_approximation_is_refused() -> None:
    with pytest.raises(NotANeuron, match="'quick' is unknown"):
        _function(_model('Gelu <approximate: string = "quick"> (x)', opset=20))
