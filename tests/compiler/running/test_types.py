"""Types of tensors that onnx does not infer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from snn_compile.compiler.running.types import with_types
from snn_compile.passes.graph.network import Network, detach
from snn_compile.passes.graph.protos import graphs_below


def network(text, weights=(), opset=21):
    imports = f'["" : {opset}, "com.microsoft" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {imports}>\n{text}")
    for name, shape in dict(weights).items():
        values = np.ones(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return detach(model)


def told(network):
    """Element type and shape of every tensor between operators, bodies included."""
    found = {}
    for graph in graphs_below(with_types(network).proto.graph):
        for value in graph.value_info:
            tensor = value.type.tensor_type
            dims = [dim.dim_value or dim.dim_param or None for dim in tensor.shape.dim]
            found[value.name] = tensor.elem_type, dims if tensor.HasField("shape") else None
    return found


FLOAT = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        (
            "a = GroupNormalization<num_groups=2>(x, s, s) b = Relu(a) y = Abs(b)",
            {"s": 4},
            {"a": (FLOAT, ["n", 4, 8]), "b": (FLOAT, ["n", 4, 8])},  # the runtime tells ranks only
        ),
        (
            "a = com.microsoft.QuickGelu(x) b = Relu(a) y = Abs(b)",
            {},
            {"a": (FLOAT, ["n", 4, 8]), "b": (FLOAT, ["n", 4, 8])},
        ),
        (
            "a = com.microsoft.FusedMatMul<transB=1>(x, w) b = Shape(a) c = Relu(a) y = Abs(c)",
            {"w": (5, 8)},
            {"a": (FLOAT, ["n", 4, 5]), "c": (FLOAT, ["n", 4, 5])},  # onnx infers that of b
        ),
        (  # more than a small weight, whose values the runtime does not need
            "a = com.microsoft.FusedMatMul(x, w) b = Relu(a) y = Abs(b)",
            {"w": (8, 4096)},
            {"a": (FLOAT, ["n", 4, 4096]), "b": (FLOAT, ["n", 4, 4096])},
        ),
    ],
)
def test_the_runtime_tells_what_onnx_does_not_infer(body, weights, expected):
    text = f"g (float[n,4,8] x) => (float[n,a1,b1] y) {{ {body} }}"
    assert told(network(text, weights)) == expected


def test_bodies_are_asked_about_as_well():
    text = """g (bool c, float[n,4] x) => (float[n,4] y) {
        a = com.microsoft.QuickGelu(x)
        y = If (c) <
            then_branch = t () => (float[n,4] r) { q = com.microsoft.Gelu(a)  r = Relu(q) },
            else_branch = e () => (float[n,4] s) {
                s = If (c) <
                    then_branch = tt () => (float[n,4] u) {
                        p = com.microsoft.FastGelu(a)  u = Relu(p)
                    },
                    else_branch = ee () => (float[n,4] v) { v = Identity(a) }
                >
            }
        > }"""
    expected = FLOAT, ["n", 4]
    assert told(network(text)) == {"a": expected, "q": expected, "p": expected}


def test_networks_whose_types_onnx_infers_stay_as_they_are():
    one = network("g (float[n,4] x) => (float[n,4] y) { a = Relu(x)  y = Abs(a) }")
    assert with_types(one) is one


def test_what_the_runtime_does_not_take_stays_without_types():
    text = "g (float[n,4] x) => (float[n,4] y) { a = com.microsoft.Unheard(x)  y = Relu(a) }"
    assert told(network(text)) == {}


def test_weights_are_shared_and_the_network_given_stays():
    given = network(
        "g (float[n,8] x) => (float[n,b] y) { a = com.microsoft.FusedMatMul(x, w)  y = Relu(a) }",
        {"w": (8, 4096)},
    )
    before = given.proto.SerializeToString()
    result = with_types(given)
    assert isinstance(result, Network)
    assert result.weights is given.weights
    assert given.proto.SerializeToString() == before
