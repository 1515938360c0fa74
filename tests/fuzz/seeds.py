"""Small models that mutation starts from: one of everything that the compiler has a rule for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

MODELS = Path(__file__).parents[2] / "models"

_TEXTS = {
    "convolution": """
        g (float[N,2,6,6] x) => (float[N,5] y)
        <float[3,2,3,3] w, float[3] b, float[3] scale, float[3] shift, float[3] mean, float[3] var,
         float[12,5] w2, float[5] b2> {
            c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b)
            n = BatchNormalization (c, scale, shift, mean, var)
            r = Relu (n)
            p = MaxPool <kernel_shape = [2,2], strides = [2,2], pads = [0,0,1,1]> (r)
            f = Flatten (p)
            y = Gemm (f, w2, b2)
        }""",
    "activations": """
        g (float[N,3] x) => (float[N,3] y, float[N,3] z) <float[3,3] w, float[1] slope> {
            zero = Constant <value = float {0.0}> ()
            six = Constant <value = float {6.0}> ()
            a = MatMul (x, w)
            b = Clip (a, zero, six)
            c = PRelu (b, slope)
            d = LeakyRelu <alpha = 0.1> (c)
            e = Sigmoid (d)
            f = Mul (d, e)
            h = HardSigmoid (f)
            i = Elu <alpha = 0.5> (h)
            y = Softmax <axis = -1> (i)
            z = Tanh (a)
        }""",
    "attention": """
        g (float[N,4,6] x) => (float[N,4,6] y) <float[6,6] q, float[6,6] k, float[6,6] v> {
            half = Constant <value = float {0.5}> ()
            a = MatMul (x, q)
            b = MatMul (x, k)
            c = MatMul (x, v)
            t = Transpose <perm = [0,2,1]> (b)
            s = MatMul (a, t)
            m = Mul (s, half)
            p = Softmax <axis = -1> (m)
            o = MatMul (p, c)
            e = Erf (o)
            l = Add (o, e)
            y = Relu (l)
        }""",
    "branches": """
        g (float[N,3] x) => (float[N,3] y) <float[3,3] w> {
            zero = Constant <value = float {0.0}> ()
            a = MatMul (x, w)
            total = ReduceSum <keepdims = 0> (a)
            c = Greater (total, zero)
            r = Relu (a)
            y = If (c) <then_branch = t () => (float[N,3] p) { p0 = Relu (a) p = MatMul (p0, w) },
                        else_branch = e () => (float[N,3] q) { q0 = Neg (r) q = Abs (q0) }>
        }""",
    "loop": """
        g (float[2,3] x) => (float[2,3] y) <float[3,3] w> {
            r = Relu (x)
            count = Constant <value = int64 {2}> ()
            go = Constant <value = bool {1}> ()
            y = Loop (count, go, r) <body = b (int64 i, bool c, float[2,3] s)
                => (bool c2, float[2,3] s2) { c2 = Identity (c) m = MatMul (s, w) s2 = Relu (m) }>
        }""",
    "scan": """
        g (float[5,3] x) => (float[3] last, float[5,3] all) <float[3] start> {
            r = Relu (x)
            last, all = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e)
                => (float[3] s2, float[3] o) { s2 = Add (s, e) o = Relu (s2) }> (start, r)
        }""",
    "recurrent": """
        g (float[4,2,3] x) => (float[4,1,2,2] y)
        <float[1,8,3] w, float[1,8,2] r, float[1,16] b> {
            a = Relu (x)
            y, h, c = LSTM <hidden_size = 2> (a, w, r, b)
        }""",
    "pictures": """
        g (float[1,2,4,4] x) => (float[1,2,8,8] y, float[1,4,4,4] z) <float[2,2,2,2] w> {
            scales = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
            pads = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> ()
            parts = Constant <value = int64[2] {1, 1}> ()
            a = Relu (x)
            y = Resize <mode = "nearest"> (a, , scales)
            b = Pad (a, pads)
            d = AveragePool <kernel_shape = [3,3]> (b)
            e, f = Split <axis = 1> (d, parts)
            h = Concat <axis = 1> (e, f, a)
            shape = Shape (h)
            z = Reshape (h, shape)
            t = ConvTranspose <strides = [2,2]> (a, w)
        }""",
}
_FUNCTIONS = """
    <ir_version: 8, opset_import: ["" : 17, "my" : 1]>
    g (float[N,3] x) => (float[N,3] y) { y = my.outer (x) }
    <opset_import: ["" : 17, "my" : 1], domain: "my">
    outer (X) => (Y) { a = my.inner <alpha = 0.5> (X) b = Relu (a) Y = my.inner <alpha = 0.1> (b) }
    <opset_import: ["" : 17], domain: "my">
    inner <alpha> (X) => (Y) { Y = LeakyRelu <alpha: float = @alpha> (X) }"""


def seed_models() -> list[ModelProto]:
    """The bundled networks and the small ones, always the same and in the same order."""
    models = [onnx.load(path) for path in sorted(MODELS.glob("*.onnx"))]
    for text in _TEXTS.values():
        models += [_with_weights(text, opset) for opset in (13, 17)]
    models.append(onnx.parser.parse_model(_FUNCTIONS))
    models.append(_with_external_data(_with_weights(_TEXTS["convolution"], 17)))
    return models


#: What the external data of the one model that has some are named, and what the file holds.
DATA_FILE, DATA = "weights.bin", np.arange(4096, dtype=np.float32).tobytes()


def _with_weights(text: str, opset: int) -> ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n' + text)
    rng = np.random.default_rng(0)
    made = {name for node in model.graph.node for name in node.output}
    for value in [value for value in model.graph.value_info if value.name not in made]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weights = np.abs(rng.standard_normal(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, value.name))
        model.graph.value_info.remove(value)
    return model


def _with_external_data(model: ModelProto) -> ModelProto:
    for i, tensor in enumerate(model.graph.initializer):
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", DATA_FILE), ("offset", 512 * i), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return model
