"""What FINN can map, and the reasons for the rest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import import_model, infer_shapes
from snn_compile.passes.lowering.hardware import hardware

HEAD = """<ir_version: 8, opset_import: ["": 17, "q": 1]>
g (float[N,4,6,6] x) => (float[N,a,b,c] y)
<float zero = {0}, float bits = {4}, float k = {0.5}, float l = {0.25},
float one = {1}, float ten = {10}> {"""
NEURON = 'q.MultiThreshold <out_dtype="%s", out_bias=0.0>'
FIRST = f"i = {NEURON % 'UINT4'} (x, t) a = Mul (i, k) v = q.Quant (w, s, zero, bits) "
SUM = FIRST + "p = Conv (a, v) r = Add (p, c) "
CASES = {
    "a layer and its neuron": (
        SUM + f"y = {NEURON % 'UINT4'} (r, t)",
        2,
        3,
        ["MultiThreshold", "in float"],
    ),
    "thresholds of 10 bits": (
        f"i = {NEURON % 'INT10'} (x, t) a = Mul (i, k) v = q.Quant (w, s, zero, bits) "
        "y = Conv (a, v)",
        *(1, 2, ["MultiThreshold", "the network's input"]),
    ),
    "Quant of 10 bits": (
        "a = q.Quant (x, k, zero, ten) v = q.Quant (w, s, zero, bits) y = Conv (a, v)",
        *(0, 2, ["Quant", "10 bits, more than 8"]),
    ),
    "channels taken, then a sum of one step": (
        FIRST + "u = q.Quant (pick, one, zero, bits) b = Conv (i, u) h = Mul (b, k) m = Add (a, h) "
        f"y = {NEURON % 'UINT4'} (m, t)",
        *(2, 3, ["MultiThreshold", "the network's input"]),
    ),
    "channels scaled, then a sum": (
        FIRST + "u = q.Quant (pick, l, zero, bits) b = Conv (i, u) h = Mul (b, k) m = Add (a, h) "
        f"y = {NEURON % 'UINT4'} (m, t)",
        *(1, 3, ["Add", "in float"]),
    ),
    "a weight that is not Quant": (FIRST + "y = Conv (a, w)", 0, 2, ["Conv", "no constant weight"]),
    "no neuron in between": (
        SUM + "y = Conv (r, v)",
        *(1, 3, ["Conv", "no neuron has quantised the sums"]),
    ),
    "an operator without hardware": (
        SUM + f"e = Erf (r) f = {NEURON % 'UINT4'} (e, t) y = Mul (f, k)",
        *(1, 3, ["Erf", "no layer in hardware"]),
    ),
    "what stands behind it": (
        SUM + f"e = Erf (r) f = {NEURON % 'UINT4'} (e, t) y = Mul (f, k)",
        *(1, 3, ["MultiThreshold", "it reads Erf"]),
    ),
    "equal steps": (
        SUM + f"f = {NEURON % 'UINT4'} (r, t) h = Mul (f, k) m = Add (h, a) "
        f"y = {NEURON % 'UINT4'} (m, t)",
        *(3, 4, ["MultiThreshold", "the network's input"]),
    ),
    "different steps": (
        SUM + f"f = {NEURON % 'UINT4'} (r, t) h = Mul (f, l) m = Add (h, a) "
        f"y = {NEURON % 'UINT4'} (m, t)",
        *(2, 4, ["Add", "different steps"]),
    ),
    "a pool": (
        FIRST + f"m = GlobalAveragePool (a) y = {NEURON % 'UINT4'} (m, t)",
        *(1, 2, ["MultiThreshold", "the network's input"]),
    ),
    "moved": (
        FIRST + "m = MaxPool <kernel_shape=[2,2]> (a) y = Conv (m, v)",
        *(1, 2, ["MultiThreshold", "the network's input"]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_and_reasons(name):
    body, mapped, all_, said = CASES[name]
    text = (HEAD + body + "}").replace("q.", "qonnx.custom_op.general.")
    model = onnx.parser.parse_model(text.replace('"q"', '"qonnx.custom_op.general"'))
    shapes = {"t": [1, 3], "w": [4, 4, 1, 1], "s": [4, 1, 1, 1], "c": [1, 4, 1, 1]}
    for constant, shape in shapes.items():
        values = numpy_helper.from_array(np.ones(shape, np.float32), constant)
        model.graph.initializer.append(values)
    one_each = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(one_each, "pick"))
    first, *lines = hardware(infer_shapes(import_model(detach(model))))
    assert first.startswith(f"hardware: {mapped} of {all_} layers and neurons")
    assert any(all(part in line for part in said) for line in lines), lines
