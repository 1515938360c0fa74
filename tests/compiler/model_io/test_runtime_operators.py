"""Operators of onnxruntime in ONNX's own domain, against what they are read as."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import numpy_helper
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io.load import load_source


def model_of(body, weights=(), opset=9, shape="n,4,6,6"):
    text = f"g (float[{shape}] x) => (float[a1,b1,c1,d1] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(1)
    for name, size in dict(weights).items():
        values = rng.standard_normal(size).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


GROUPS, WIDTH, CHANNELS = {"s": 2, "b": 2}, {"s": 6, "b": 6}, {"s": (4, 6, 6), "b": (4, 6, 6)}


@pytest.mark.parametrize(
    ("body", "weights", "opset"),
    [
        ("y = GroupNormalization<num_groups=2>(x, s, b)", GROUPS, 18),
        ("y = GroupNormalization<num_groups=2, epsilon=0.1>(x, s, b)", GROUPS, 19),
        ("y = GroupNormalization<num_groups=1>(x, s, b)", {"s": 1, "b": 1}, 20),
        ("y = LayerNormalization(x, s, b)", WIDTH, 11),
        ("y = LayerNormalization<axis=-1, epsilon=0.1>(x, s)", {"s": 6}, 16),
        ("y, m, d = LayerNormalization<axis=1>(x, s, b)", CHANNELS, 15),
        ("y = LayerNormalization<axis=-3>(x, s, b)", CHANNELS, 13),
        ("y = SimplifiedLayerNormalization(x, s)", {"s": 6}, 12),
        ("y = SimplifiedLayerNormalization<epsilon=0.1>(x, s)", {"s": 6}, 17),
        ("y, d = SimplifiedLayerNormalization<axis=1, stash_type=1>(x, s)", {"s": (4, 6, 6)}, 21),
        ("y = ThresholdedRelu<alpha=0.5>(x)", {}, 8),
        ("y = ThresholdedRelu(x)", {}, 9),
        ("y = ImageScaler<bias=[1.0, 2.0, 3.0, 4.0], scale=0.5>(x)", {}, 8),
        ("y = ImageScaler<bias=[1.0, 2.0, 3.0, 4.0]>(x)", {}, 7),
        ("y = Crop<border=[1, 2, 1, 0]>(x)", {}, 7),
        ("y = Crop<border=[1, 2, 0, 0], scale=[3, 2]>(x)", {}, 9),
        ("y = ScaledTanh<alpha=2.0, beta=0.5>(x)", {}, 9),
        ("y = ParametricSoftplus<alpha=2.0, beta=0.5>(x)", {}, 7),
        ("y = Affine<alpha=2.0, beta=0.5>(x)", {}, 9),
        ("y = Scale<scale=2.0>(x)", {}, 8),
    ],
)
def test_they_are_read_as_operators_of_onnx(body, weights, opset):
    model = model_of(body, weights, opset)
    x = np.random.default_rng(2).standard_normal((3, 4, 6, 6)).astype(np.float32)
    (before,) = run_model(model, {"x": x})
    read = load_source(model).network.attached()
    (after,) = run_model(read, {"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_functions_and_bodies_are_read_too():
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
        g (bool c, float[n,4,6] x, float[2] s) => (float[n,4,6] y) {
            y = If (c) <
                then_branch = t () => (float[n,4,6] a) { a = own.Normal(x, s) },
                else_branch = e () => (float[n,4,6] b) {
                    b = GroupNormalization<num_groups=2>(x, s, s)
                }
            > }
        <domain: "own", opset_import: ["" : 18]>
        Normal (x, s) => (y) { y = GroupNormalization<num_groups=2>(x, s, s) }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    feed = {"x": rng.standard_normal((2, 4, 6)).astype(np.float32), "s": np.ones(2, np.float32)}
    read = load_source(model).network.attached()
    for condition in (True, False):
        (before,) = run_model(model, feed | {"c": np.array(condition)})
        (after,) = run_model(read, feed | {"c": np.array(condition)})
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "opset", "says"),
    [
        ("h, m = LayerNormalization(x, s)  y = Add(h, m)", 14, "its output m is used"),
        ("y = GroupNormalization(x, s, s)", 18, "it has no num_groups"),
        ("y = LayerNormalization(x)", 14, "it has no scale"),
        ('y = Upsample<mode="nearest">(x, s)', 11, "'y' is not an operator of version 11"),
        ("y = ScaledTanh<alpha=2.0, beta=0.5>(x)", 12, "does not know"),
    ],
)
def test_what_they_cannot_be_read_as_is_refused(body, opset, says):
    with pytest.raises(ModelError, match=says):
        load_source(model_of(body, {"s": 6}, opset))
