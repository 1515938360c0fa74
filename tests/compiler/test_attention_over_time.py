"""Attention as exporters spell it, and what surrounds it, compiled to several timesteps.

What is written is compared with the network of one timestep that it stands for, computed step by
step without a time axis.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import export_model, run_model
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.pipeline import compile_model
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.lowering.temporal_to_spatial import temporal_to_spatial
from stepwise_reference import stepwise

STEPS = 4
TOKENS = "float[batch,6,8] x"
IMAGES = "float[batch,3,4,4] x"
LISTS = {
    "zero": [0],
    "one": [1],
    "two": [2],
    "three": [3],
    "four": [4],
    "eight": [8],
    "sixteen": [16],
    "minus_1": [-1],
    "minus_2": [-2],
    "all": [2**63 - 1],
    "twos": [2, 2],
    "thirds": [1, 1, 1],
    "widths": [8, 8, 8],
    "qkv": [-1, 6, 3, 2, 4],
    "qkv_0": [0, 6, 3, 2, 4],
    "heads": [0, 0, 2, 4],
    "tokens": [-1, 6, 8],
    "first_heads": [6, -1, 4],
    "first_stack": [6, -1, 3, 8],
    "first_tokens": [6, -1, 8],
    "merged": [-1, 6, 4],
    "apart": [-1, 2, 6, 4],
    "columns": [0, 8, -1],
    "token": [1, 8],
    "cells": [-1, 2, 2, 2, 2, 8],
    "windows": [-1, 4, 8],
    "window_qkv": [-1, 4, 3, 2, 4],
    "image": [-1, 4, 4, 8],
    "masked": [-1, 4, 2, 4, 4],
    "unmasked": [-1, 2, 4, 4],
}

HEAD = """a = MatMul (x, wa) h = Relu (a) """
TAIL = """o = MatMul (c, wo) y = Add (h, o) """
#: From q, k, v [batch, heads, tokens, channels] to c.
ATTEND = """kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) w = Softmax <axis = -1> (s)
    m = MatMul (w, v) mt = Transpose <perm = [0, 2, 1, 3]> (m) c = Reshape (mt, tokens) """
FUSED = """p = MatMul (h, wp) f = Reshape (p, qkv) t = Transpose <perm = [2, 0, 3, 1, 4]> (f) """

ATTENTION = {
    "fused, Split": FUSED
    + """a0, a1, a2 = Split <axis = 0> (t, thirds)
        q = Squeeze (a0, zero) k = Squeeze (a1, zero) v = Squeeze (a2, zero) """
    + ATTEND,
    "fused, Gather of scalars": FUSED
    + "q = Gather (t, i0) k = Gather (t, i1) v = Gather (t, i2) "
    + ATTEND,
    "fused, Gather of lists": FUSED
    + """a0 = Gather <axis = 0> (t, zero) a1 = Gather <axis = 0> (t, one)
        a2 = Gather <axis = 0> (t, two)
        q = Squeeze (a0, zero) k = Squeeze (a1, zero) v = Squeeze (a2, zero) """
    + ATTEND,
    "fused, Slice": FUSED
    + """a0 = Slice (t, zero, one, zero, one) a1 = Slice (t, one, two, zero)
        a2 = Slice (t, two, all, zero)
        q = Squeeze (a0, zero) k = Squeeze (a1, zero) v = Squeeze (a2, zero) """
    + ATTEND,
    "fused, of the third axis": """p = MatMul (h, wp) f = Reshape (p, qkv_0)
        a0, a1, a2 = Split <axis = 2> (f, thirds)
        b0 = Squeeze (a0, two) b1 = Squeeze (a1, two) b2 = Squeeze (a2, two)
        q = Transpose <perm = [0, 2, 1, 3]> (b0) k = Transpose <perm = [0, 2, 1, 3]> (b1)
        v = Transpose <perm = [0, 2, 1, 3]> (b2) """
    + ATTEND,
    "chunks, heads in the batch": """p = MatMul (h, wp) a0, a1, a2 = Split <axis = -1> (p, widths)
        f0 = Reshape (a0, heads) f1 = Reshape (a1, heads) f2 = Reshape (a2, heads)
        t0 = Transpose <perm = [0, 2, 1, 3]> (f0) t1 = Transpose <perm = [0, 2, 3, 1]> (f1)
        t2 = Transpose <perm = [0, 2, 1, 3]> (f2)
        q = Reshape (t0, merged) k0 = Transpose <perm = [0, 1, 3, 2]> (t1) k1 = Reshape (k0, merged)
        k = Transpose <perm = [0, 2, 1]> (k1) v = Reshape (t2, merged)
        s = MatMul (q, k) w = Softmax <axis = -1> (s) m = MatMul (w, v) r = Reshape (m, apart)
        mt = Transpose <perm = [0, 2, 1, 3]> (r) c = Reshape (mt, tokens) """,
    "sequence first, heads in the batch": """z = Transpose <perm = [1, 0, 2]> (h)
        p = MatMul (z, wp) a0 = Slice (p, zero, eight, two) a1 = Slice (p, eight, sixteen, two)
        a2 = Slice (p, sixteen, all, minus_1)
        f0 = Reshape (a0, first_heads) f1 = Reshape (a1, first_heads) f2 = Reshape (a2, first_heads)
        q = Transpose <perm = [1, 0, 2]> (f0) k = Transpose <perm = [1, 2, 0]> (f1)
        v = Transpose <perm = [1, 0, 2]> (f2)
        s = MatMul (q, k) w = Softmax <axis = -1> (s) m = MatMul (w, v)
        mt = Transpose <perm = [1, 0, 2]> (m) r = Reshape (mt, first_tokens)
        c = Transpose <perm = [1, 0, 2]> (r) """,
    "stacked in front": """z = Transpose <perm = [1, 0, 2]> (h) p = MatMul (z, wp)
        f = Reshape (p, first_stack) u = Unsqueeze (f, zero)
        t = Transpose <perm = [3, 1, 2, 0, 4]> (u) e = Squeeze (t, minus_2)
        z0 = Gather <axis = 0> (e, i0) z1 = Gather <axis = 0> (e, i1) z2 = Gather <axis = 0> (e, i2)
        f0 = Reshape (z0, first_heads) f1 = Reshape (z1, first_heads) f2 = Reshape (z2, first_heads)
        q = Transpose <perm = [1, 0, 2]> (f0) k = Transpose <perm = [1, 2, 0]> (f1)
        v = Transpose <perm = [1, 0, 2]> (f2)
        s = MatMul (q, k) w = Softmax <axis = -1> (s) m = MatMul (w, v)
        mt = Transpose <perm = [1, 0, 2]> (m) r = Reshape (mt, first_tokens)
        c = Transpose <perm = [1, 0, 2]> (r) """,
    "heads first": FUSED
    + """g = Transpose <perm = [0, 2, 1, 3, 4]> (t)
        a0, a1, a2 = Split <axis = 0, num_outputs = 3> (g)
        b0 = Squeeze (a0, zero) b1 = Squeeze (a1, zero) b2 = Squeeze (a2, zero)
        k = Transpose <perm = [0, 1, 3, 2]> (b1) s = MatMul (b0, k) w = Softmax <axis = 3> (s)
        m = MatMul (w, b2) mt = Transpose <perm = [1, 2, 0, 3]> (m) c = Reshape (mt, tokens) """,
    "sums by name": """p = MatMul (h, wp) f = Reshape (p, qkv_0)
        q = Gather <axis = 2> (f, i0) k = Gather <axis = 2> (f, i1) v = Gather <axis = 2> (f, i2)
        s = Einsum <equation = "bnhd, bmhd -> hbnm"> (q, k) w = Softmax <axis = -1> (s)
        m = Einsum <equation = "hbnm,bmhd->bnhd"> (w, v) c = Reshape (m, tokens) """,
    "shapes from the network": """p = MatMul (h, wp) n = Shape (h) b = Gather <axis = 0> (n, zero)
        l = Slice (n, one, two) q5 = Concat <axis = 0> (b, l, three, two, four)
        f = Reshape (p, q5) t = Transpose <perm = [2, 0, 3, 1, 4]> (f)
        a0, a1, a2 = Split <axis = -5> (t, thirds)
        q = Squeeze (a0, zero) k = Squeeze (a1, zero) v = Squeeze (a2, zero)
        kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) w = Softmax <axis = -1> (s)
        m = MatMul (w, v) mt = Transpose <perm = [0, 2, 1, 3]> (m)
        back = Concat <axis = 0> (b, l, eight) c = Reshape (mt, back) """,
    "one key for all heads": """p = MatMul (h, wp) a0, a1, a2 = Split <axis = -1> (p, widths)
        f0 = Reshape (a0, heads) f1 = Slice (a1, zero, four, two) f2 = Slice (a2, four, eight, two)
        q = Transpose <perm = [0, 2, 1, 3]> (f0) u1 = Unsqueeze (f1, one) u2 = Unsqueeze (f2, one)
        n = Shape (q) k = Expand (u1, n) v = Expand (u2, n) """
    + ATTEND,
    "the operator": FUSED
    + """q = Gather (t, i0) k = Gather (t, i1) v = Gather (t, i2) m = Attention (q, k, v)
        mt = Transpose <perm = [0, 2, 1, 3]> (m) c = Reshape (mt, tokens) """,
}
WINDOWS = """i = Transpose <perm = [0, 2, 3, 1]> (a) h = Relu (i) SHIFT e = Reshape (n, cells)
    g = Transpose <perm = [0, 1, 3, 2, 4, 5]> (e) d = Reshape (g, windows) p = MatMul (d, wp)
    f = Reshape (p, window_qkv) t = Transpose <perm = [2, 0, 3, 1, 4]> (f)
    q = Gather (t, i0) k = Gather (t, i1) v = Gather (t, i2)
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul (q, kt) s1 = Add (s0, bias) MASK
    w = Softmax <axis = -1> (s) m = MatMul (w, v) mt = Transpose <perm = [0, 2, 1, 3]> (m)
    c0 = Reshape (mt, cells) c1 = Transpose <perm = [0, 1, 3, 2, 4, 5]> (c0)
    c = Reshape (c1, image) o = MatMul (c, wo) y = Add (h, o)"""
PATCHES = """a = Conv <kernel_shape = [2, 2], strides = [2, 2]> (x, wc) h = Relu (a)
    f = Reshape (h, columns) t = Transpose <perm = [0, 2, 1]> (f) """
READ = " j = MatMul (z, wa) r = Relu (j) o = Gather <axis = 1> (r, i0) y = MatMul (o, wo)"
AROUND = {
    "windows": "a = Conv (x, w1) "
    + WINDOWS.replace("SHIFT", "n = Identity (h)").replace("MASK", "s = Identity (s1)"),
    "windows that are shifted": "a = Conv (x, w1) "
    + WINDOWS.replace(
        "SHIFT",
        """n0 = Slice (h, one, all, one) n1 = Slice (h, zero, one, one)
        n = Concat <axis = 1> (n0, n1)""",
    ).replace(
        "MASK",
        """s2 = Reshape (s1, masked) s3 = Add (s2, mask) s = Reshape (s3, unmasked)""",
    ),
    "windows, one by one": """a = Conv (x, w1) h = Relu (a)
        l, r = Split <axis = 3> (h, twos) u, d = Split <axis = 2> (l, twos)
        v, w = Split <axis = 2> (r, twos)
        us = Unsqueeze (u, zero) ds = Unsqueeze (d, zero) vs = Unsqueeze (v, zero)
        ws = Unsqueeze (w, zero) all_4 = Concat <axis = 0> (us, ds, vs, ws)
        g = ReduceMean <keepdims = 0> (all_4, zero) t = Transpose <perm = [0, 2, 3, 1]> (g)
        y = MatMul (t, wo)""",
    "class token by Shape, Expand, Concat": PATCHES
    + """n = Shape (t) b = Gather <axis = 0> (n, zero) e = Concat <axis = 0> (b, token)
        c = Expand (cls, e) z = Concat <axis = 1> (c, t)"""
    + READ,
    "class token by ConstantOfShape and Where": PATCHES
    + """n = Shape <start = 0, end = 1> (x) e = Concat <axis = 0> (n, minus_1, eight)
        l = Shape (e) ones = ConstantOfShape <value = int64[1] {1}> (l) minus = Neg (ones)
        k = Equal (e, minus) q = Where (k, ones, e) c = Expand (cls, q)
        z0 = Concat <axis = 1> (c, t) z = Add (z0, pos)"""
    + READ,
    "class token as a sum with nothing": PATCHES
    + """g = Slice (t, zero, one, one) nil = Sub (g, g) c = Add (nil, cls)
        z = Concat <axis = -2> (c, t)"""
    + READ,
    "class token in front, tokens first": PATCHES
    + """e = Transpose <perm = [1, 0, 2]> (t) n = Shape (e) b = Slice (n, one, two)
        l = Concat <axis = 0> (one, b, eight) c = Expand (cls, l) z0 = Concat <axis = 0> (c, e)
        j0 = MatMul (z0, wa) r0 = Relu (j0) o = Gather <axis = 0> (r0, i0) y = MatMul (o, wo)""",
}
SINGLE = {
    "flat from axis 0": "f = Flatten <axis = 0> (h) o = MatMul (f, wf) y = Relu (o)",
    "flat from the last axis but two": "f = Flatten <axis = -3> (h) y = MatMul (f, wf)",
    "without the batch axis": """g = Squeeze (h, zero) k = Transpose <perm = [1, 0]> (g)
        s = MatMul (g, k) w = Softmax <axis = -1> (s) m = MatMul (w, g) o = MatMul (m, wo)
        y = Unsqueeze (o, zero)""",
    "in a new shape": "f = Reshape (h, minus_1) u = Unsqueeze (f, zero) y = MatMul (u, wf)",
}


SHAPES = {
    "wa": (8, 8),
    "wp": (8, 24),
    "wo": (8, 8),
    "wf": (48, 5),
    "wc": (8, 3, 2, 2),
    "w1": (8, 3, 1, 1),
    "bias": (1, 2, 4, 4),
    "mask": (1, 4, 1, 4, 4),
    "cls": (1, 1, 8),
    "pos": (1, 5, 8),
}


def network(inputs, body, opset=18):
    """The nodes with what they read: lists, numbers i0 to i2, random weights."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float y) {{ {body} }}'
    )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    given = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    given |= {name: np.array(values, np.int64) for name, values in LISTS.items()}
    given |= {f"i{number}": np.array(number) for number in range(3)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values, name) for name, values in given.items() if name in used
    )
    return model


def check(model, tmp_path):
    """Compile to several timesteps; every step is as the reference says."""
    declared = model.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in declared]
    rng = np.random.default_rng(1)
    path = tmp_path / "calibration.npz"
    np.savez(path, x=rng.normal(size=(24, *shape[1:])).astype(np.float32))
    options = CompileOptions(timesteps=STEPS)
    snn = compile_model(model, path, options).network.proto
    x = rng.normal(size=(shape[0] or 3, *shape[1:])).astype(np.float32)
    spatial = export_model(temporal_to_spatial(import_model(snn)).graph)
    (got,), (expected,) = run_model(snn, {"x": x}), stepwise(spatial, {"x": x}, STEPS)
    assert sum(node.op_type == "IntegrateFire" for node in snn.graph.node) > 0
    assert got.shape == expected.shape == run_model(model, {"x": x})[0].shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case, tmp_path):
    opset = 23 if case == "the operator" else 18
    check(network(TOKENS, HEAD + ATTENTION[case] + TAIL, opset), tmp_path)


@pytest.mark.parametrize("case", AROUND)
def test_windows_and_class_tokens(case, tmp_path):
    check(network(IMAGES, AROUND[case]), tmp_path)


@pytest.mark.parametrize("case", SINGLE)
def test_a_batch_of_one(case, tmp_path):
    check(network(TOKENS.replace("batch", "1"), HEAD + SINGLE[case]), tmp_path)
