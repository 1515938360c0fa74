"""Networks of integers of one operator each, in the form that the target ``int8`` writes, and what
they must give, in loops over exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from snn_compile.passes.graph.network import detach

STEPS = {"x": 0.0371, "y": 0.0523, "z": 0.0614, "out": 0.0813}
ZEROS = {"x": 3, "y": 130, "z": 0, "out": 101}


class Qdq:
    """A network ``op(x, ...)`` of floats x that become integers first.

    Args:
        op: the operator.
        inputs: shape of each signal, named x, y, z in this order.
        weight: int8, of Conv, Gemm and MatMul.
        along: axis of its output channels.
        bias: int32.
        out: step of the integers that come out; None: floats do.
        top: largest integer of x.
    """

    def __init__(
        self, op, inputs, weight=None, along=0, bias=None, out=STEPS["out"], top=255, **attributes
    ):
        self.op, self.inputs, self.weight, self.along, self.bias = op, inputs, weight, along, bias
        self.out, self.top, self.attributes = out, top, attributes
        rng = np.random.default_rng(1)
        channels = 0 if weight is None else weight.shape[along]
        self.steps = (rng.random(channels) * 0.01 + 0.001).astype(np.float32)

    def network(self):
        """The whole of it."""
        nodes, weights = [], {}

        def scale(name, step, zero):
            weights[f"{name}.step"] = np.float32(step)
            weights[f"{name}.zero"] = np.uint8(zero)
            return [f"{name}.step", f"{name}.zero"]

        def add(op, inputs, output, **attributes):
            name = f"{op}.{output}"
            nodes.append(helper.make_node(op, inputs, [output], name, **attributes))

        read = []
        for name in list(STEPS)[: len(self.inputs)]:
            pair = scale(name, STEPS[name], ZEROS[name])
            add("QuantizeLinear", [name, *pair], f"{name}.all")
            if self.top < 255 and name == "x":
                weights["top"] = np.uint8(self.top)
                add("Min", [f"{name}.all", "top"], f"{name}.q")
            else:
                nodes[-1].output[0] = f"{name}.q"
            add("DequantizeLinear", [f"{name}.q", *pair], f"{name}.float")
            read.append(f"{name}.float")
        if self.weight is not None:
            weights |= {"w": self.weight, "w.step": self.steps}
            weights["w.zero"] = np.zeros(len(self.steps), np.int8)
            add("DequantizeLinear", ["w", "w.step", "w.zero"], "w.float", axis=self.along)
            read.append("w.float")
        if self.bias is not None:
            weights |= {"b": self.bias, "b.step": self.steps * np.float32(STEPS["x"])}
            add("DequantizeLinear", ["b", "b.step"], "b.float", axis=0)
            read.append("b.float")
        if self.out is None:
            add(self.op, read, "result", **self.attributes)
        else:
            add(self.op, read, "potential", **self.attributes)
            pair = scale("out", self.out, ZEROS["out"])
            add("QuantizeLinear", ["potential", *pair], "out.q")
            add("DequantizeLinear", ["out.q", *pair], "result")
        graph = helper.make_graph(
            nodes,
            "integers",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in zip(STEPS, self.inputs, strict=False)
            ],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
        )
        opset = [helper.make_opsetid("", 17)]
        return detach(helper.make_model(graph, opset_imports=opset, ir_version=8))

    def feed(self, seed=0):
        """Floats that become all integers, and some beyond."""
        rng = np.random.default_rng(seed)
        feed = {}
        for name, shape in zip(STEPS, self.inputs, strict=False):
            integers = rng.uniform(-10, 265, shape) - ZEROS[name]
            feed[name] = (integers * STEPS[name]).astype(np.float32)
        return feed


def int8(*shape, seed=0, most=64):
    """Weights."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)


def int32(size, seed=0):
    """Biases."""
    return np.random.default_rng(seed).integers(-9000, 9000, size).astype(np.int32)


def rounded(value, zero):
    """An integer of 8 bits: halves to even, then the zero point."""
    return min(max(round(value) + zero, 0), 255)


def convolution(x, w, bias, strides, pads, dilations, group):
    """Sums of a Conv, x without its zero point: [N, C, *spatial]."""
    rank = w.ndim - 2
    out = [
        (n + pads[i] + pads[rank + i] - (k - 1) * d - 1) // s + 1
        for i, (n, k, s, d) in enumerate(
            zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
        )
    ]
    result = np.zeros((len(x), len(w), *out), object)
    per_group = len(w) // group
    for n, o, *place in itertools.product(*map(range, result.shape)):
        total = int(bias[o])
        for c, *offset in itertools.product(*map(range, w.shape[1:])):
            at = [
                p * s + k * d - before
                for p, s, k, d, before in zip(
                    *(place, strides, offset, dilations, pads[:rank]), strict=True
                )
            ]
            if all(0 <= i < size for i, size in zip(at, x.shape[2:], strict=True)):
                channel = (o // per_group) * w.shape[1] + c
                total += int(x[(n, channel, *at)]) * int(w[(o, c, *offset)])
        result[(n, o, *place)] = total
    return result


def fraction(step):
    """A float32 number as it is."""
    return Fraction(float(np.float32(step)))
