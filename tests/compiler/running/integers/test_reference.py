"""The reference against loops over fractions, and onnxruntime's integer kernels against it."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from integers_by_hand import STEPS, ZEROS, Qdq, convolution, fraction, int8, int32, rounded
from onnx import ValueInfoProto
from snn_compile.compiler.running.integers.compare import compare_integers, with_tensors
from snn_compile.compiler.running.integers.form import integer_operators
from snn_compile.compiler.running.integers.reference import expected_of

#: Name: the kernel that onnxruntime has for it, and the network.
CASES = {
    "conv": ("QLinearConv", Qdq("Conv", [[2, 4, 9, 8]], int8(6, 4, 3, 3), bias=int32(6))),
    "conv strided": (
        "QLinearConv",
        Qdq("Conv", [[2, 3, 9, 8]], int8(5, 3, 3, 2), strides=[2, 3], pads=[1, 0, 2, 1]),
    ),
    "conv same": (
        "QLinearConv",
        Qdq("Conv", [[1, 3, 9, 8]], int8(5, 3, 3, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    ),
    "conv same lower": (
        "QLinearConv",
        Qdq("Conv", [[1, 3, 9, 8]], int8(5, 3, 4, 2), auto_pad="SAME_LOWER"),
    ),
    "conv grouped": (
        "QLinearConv",
        Qdq("Conv", [[2, 4, 7, 7]], int8(6, 2, 3, 3), bias=int32(6), group=2, pads=[1] * 4),
    ),
    "conv depthwise": (
        "QLinearConv",
        Qdq("Conv", [[2, 16, 7, 7]], int8(16, 1, 3, 3), bias=int32(16), group=16, pads=[1] * 4),
    ),
    "conv multiplied": (
        "QLinearConv",
        Qdq("Conv", [[2, 4, 7, 7]], int8(8, 1, 3, 3), group=4),
    ),
    "conv dilated": (
        "QLinearConv",
        Qdq("Conv", [[1, 4, 9, 9]], int8(3, 4, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]),
    ),
    "conv of one axis": (
        "QLinearConv",
        Qdq("Conv", [[2, 4, 17]], int8(5, 4, 3), bias=int32(5), strides=[2], pads=[1, 1]),
    ),
    "conv of few levels": (
        "QLinearConv",
        Qdq("Conv", [[1, 4, 7, 7]], int8(6, 4, 3, 3, most=127), top=32),
    ),
    "conv of large sums": (
        "QLinearConv",
        Qdq("Conv", [[1, 800, 6, 6]], np.full((4, 800, 3, 3), 64, np.int8), out=300.0),
    ),
    "gemm": ("QGemm", Qdq("Gemm", [[3, 20]], int8(20, 7), along=1, bias=int32(7))),
    "gemm transposed": (
        "QGemm",
        Qdq("Gemm", [[3, 20]], int8(7, 20), bias=int32(7), transB=1),
    ),
    "gemm to floats": (
        "QGemm",
        Qdq("Gemm", [[3, 20]], int8(20, 7), along=1, bias=int32(7), out=None),
    ),
    "matmul": ("QLinearMatMul", Qdq("MatMul", [[2, 5, 20]], int8(20, 7), along=1)),
    "matmul to floats": (
        "MatMulIntegerToFloat",
        Qdq("MatMul", [[2, 5, 20]], int8(20, 7), along=1, out=None),
    ),
    "matmul of two": (
        "QLinearMatMul",
        Qdq("MatMul", [[2, 3, 5, 20], [2, 3, 20, 6]], out=0.9),
    ),
    "matmul of two to floats": (
        "MatMulIntegerToFloat",
        Qdq("MatMul", [[2, 5, 300], [2, 300, 6]], out=None),
    ),
    "add": ("QLinearAdd", Qdq("Add", [[2, 3, 9, 9], [2, 3, 9, 9]])),
    "add of channels": ("QLinearAdd", Qdq("Add", [[2, 3, 9, 9], [1, 3, 1, 1]])),
    "mul": ("QLinearMul", Qdq("Mul", [[2, 3, 9, 9], [2, 3, 9, 9]], out=0.3)),
    "mul of channels": ("QLinearMul", Qdq("Mul", [[2, 3, 9, 9], [2, 3, 1, 1]], out=0.3)),
    "concat": (
        "QLinearConcat",
        Qdq("Concat", [[2, 3, 5, 5], [2, 1, 5, 5], [2, 4, 5, 5]], axis=1),
    ),
    "pool": (
        "QLinearAveragePool",
        Qdq("AveragePool", [[2, 4, 9, 9]], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    ),
    "pool with padding": (
        "QLinearAveragePool",
        Qdq("AveragePool", [[2, 4, 9]], kernel_shape=[3], pads=[1, 1], count_include_pad=1),
    ),
    "pool of all": ("QLinearGlobalAveragePool", Qdq("GlobalAveragePool", [[2, 9, 6, 7]])),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def kernels_of(network, tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(network.attached().SerializeToString(), options, ["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    return collections.Counter(n.op_type for n in nodes if n.op_type != "Transpose")


def test_kernels_give_what_the_reference_gives(case):
    network = case[1].network()
    found = compare_integers(network, [case[1].feed(seed) for seed in range(3)])
    assert [compared.operator.split()[0] for compared in found][-1] == case[1].op
    assert sum(compared.values for compared in found[-1:]) > 50
    assert [compared.wrong for compared in found] == [0] * len(found)
    assert sum(c.differing for c in found) <= 2e-3 * sum(c.values for c in found)


def test_tensors_given_out_take_no_kernel_apart(case, tmp_path):
    kernel, qdq = case
    network = qdq.network()
    before = kernels_of(network, tmp_path)
    assert before[kernel] == 1
    operators = integer_operators(network)
    names = [operator.output for operator in operators]
    names += [operand.tensor for o in operators for operand in o.present if operand.values is None]
    assert kernels_of(with_tensors(network, list(dict.fromkeys(names))), tmp_path) == before


def integers_of(qdq, seed=0):
    """The signals as integers, and the last operator."""
    operators = integer_operators(qdq.network())
    rng = np.random.default_rng(seed)
    shapes = dict(zip(STEPS, qdq.inputs, strict=False))
    read = {
        f"{name}.q": rng.integers(0, 256, shape).astype(np.uint8) for name, shape in shapes.items()
    }
    return operators[-1], read


def requantised(sums, scales, zero, axis):
    """Sums times float32 scales of each channel, exactly, as integers."""
    result = np.zeros(sums.shape, np.uint8)
    for place in itertools.product(*map(range, sums.shape)):
        scale = scales[place[axis]] if len(scales) > 1 else scales[0]
        result[place] = rounded(int(sums[place]) * fraction(scale), zero)
    return result


@pytest.mark.parametrize(
    ("shape", "weight", "strides", "pads", "dilations", "group"),
    [
        ([2, 3, 5, 4], int8(4, 3, 3, 2), [1, 1], [0, 0, 0, 0], [1, 1], 1),
        ([1, 4, 5, 6], int8(6, 2, 2, 3), [2, 1], [1, 0, 0, 2], [1, 2], 2),
        ([1, 3, 4, 4], int8(6, 1, 3, 3), [1, 2], [1, 1, 1, 1], [1, 1], 3),
        ([2, 3, 9], int8(4, 3, 3), [2], [1, 2], [2], 1),
    ],
)
def test_conv_is_that_of_loops(shape, weight, strides, pads, dilations, group):
    bias = int32(len(weight))
    window = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    qdq = Qdq("Conv", [shape], weight, 0, bias, **window)
    operator, read = integers_of(qdq)
    centred = read["x.q"].astype(int) - ZEROS["x"]
    sums = convolution(centred, weight, bias, strides, pads, dilations, group)
    got = expected_of(operator, read, sums.shape)
    scales = np.float32(STEPS["x"]) * qdq.steps / np.float32(STEPS["out"])
    np.testing.assert_array_equal(got.integers, requantised(sums, scales, ZEROS["out"], 1))
    assert got.slack < 1e-3


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_that_of_loops(transposed):
    weight = int8(6, 11) if transposed else int8(11, 6)
    qdq = Qdq("Gemm", [[4, 11]], weight, 1 - transposed, int32(6), transB=transposed)
    operator, read = integers_of(qdq)
    sums = np.zeros((4, 6), object)
    for n, o in np.ndindex(4, 6):
        row = weight[o] if transposed else weight[:, o]
        products = (int(q) - ZEROS["x"] for q in read["x.q"][n])
        sums[n, o] = sum(q * int(w) for q, w in zip(products, row, strict=True)) + int(qdq.bias[o])
    scales = np.float32(STEPS["x"]) * qdq.steps / np.float32(STEPS["out"])
    got = expected_of(operator, read, (4, 6))
    np.testing.assert_array_equal(got.integers, requantised(sums, scales, ZEROS["out"], 1))


def values_of(read, name):
    """What integers stand for, exactly."""
    centred = read[f"{name}.q"].astype(int) - ZEROS[name]
    return np.vectorize(lambda q: int(q) * fraction(STEPS[name]), otypes=[object])(centred)


def as_integers(values):
    step = fraction(STEPS["out"])
    convert = np.vectorize(lambda v: rounded(v / step, ZEROS["out"]), otypes=[np.uint8])
    return convert(values)


def test_joins_are_those_of_fractions():
    shapes = [[2, 3, 4, 4], [2, 3, 4, 4]]
    for op, joined in (("Add", np.add), ("Mul", np.multiply)):
        operator, read = integers_of(Qdq(op, shapes))
        wanted = as_integers(joined(values_of(read, "x"), values_of(read, "y")))
        got = expected_of(operator, read, (2, 3, 4, 4))
        np.testing.assert_array_equal(got.integers, wanted)
    operator, read = integers_of(Qdq("Concat", shapes, axis=2))
    wanted = as_integers(np.concatenate([values_of(read, "x"), values_of(read, "y")], 2))
    got = expected_of(operator, read, (2, 3, 8, 4))
    np.testing.assert_array_equal(got.integers, wanted)


def test_pools_are_those_of_fractions():
    operator, read = integers_of(Qdq("GlobalAveragePool", [[2, 3, 4, 5]]))
    x = values_of(read, "x")
    wanted = as_integers(x.reshape(2, 3, -1).sum(axis=2).reshape(2, 3, 1, 1) / 20)
    np.testing.assert_array_equal(expected_of(operator, read, (2, 3, 1, 1)).integers, wanted)
    for included in (0, 1):
        attributes = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
        qdq = Qdq("AveragePool", [[2, 3, 7]], **attributes, count_include_pad=included)
        operator, read = integers_of(qdq)
        x = values_of(read, "x")
        pooled = np.zeros((2, 3, 4), object)
        for n, c, o in np.ndindex(2, 3, 4):
            under = [x[n, c, i] for i in range(2 * o - 1, 2 * o + 2) if 0 <= i < 7]
            pooled[n, c, o] = sum(under) / (3 if included else len(under))
        got = expected_of(operator, read, pooled.shape)
        np.testing.assert_array_equal(got.integers, as_integers(pooled))


def test_floats_that_come_out_are_sums_times_steps():
    qdq = Qdq("MatMul", [[2, 4, 6], [2, 6, 3]], out=None)
    operator, read = integers_of(qdq)
    wanted = np.matmul(values_of(read, "x"), values_of(read, "y")).astype(np.float64)
    got = expected_of(operator, read, (2, 4, 3))
    assert got.integers is None
    np.testing.assert_allclose(got.values, wanted, rtol=got.slack)


def test_quantisation_saturates_and_rounds_halves_to_even():
    network = Qdq("Add", [[7], [7]]).network()
    operator = integer_operators(network)[0]
    step = np.float32(STEPS["x"])
    k = np.array([0.5, 1.5, 2.5, -1e9, np.inf, -np.inf, np.nan], np.float32)
    got = expected_of(operator, {"x": k * step}, (7,))
    np.testing.assert_array_equal(got.integers, [3, 5, 5, 0, 255, 0, 0])


def test_values_far_from_halves_have_one_integer(monkeypatch):
    """An integer that is off by one is wrong, unless rounding explains it."""
    qdq = Qdq("Add", [[2, 30], [2, 30]])
    network, other = qdq.network(), qdq.network()
    for tensor in other.proto.graph.initializer:
        if tensor.name == "out.zero":
            tensor.raw_data = np.uint8(ZEROS["out"] + 1).tobytes()
    where = "snn_compile.compiler.running.integers.compare.with_tensors"
    monkeypatch.setattr(where, lambda _, names: with_tensors(other, names))
    found = compare_integers(network, [qdq.feed()])[-1]
    assert found.operator == "Add Add.potential"
    assert 30 < found.wrong == found.differing <= 60
    assert found.largest == 1


def test_what_lies_halfway_may_go_either_way(monkeypatch):
    """Of a runtime that rounds halves up nothing is wrong: it is counted."""
    qdq = Qdq("Add", [[256], [256]])
    network = qdq.network()
    for tensor in network.proto.graph.initializer:
        if tensor.name.endswith(".step"):
            tensor.raw_data = np.float32(2.0 if tensor.name == "out.step" else 1.0).tobytes()
        if tensor.name.endswith(".zero"):
            tensor.raw_data = np.uint8(0).tobytes()
    feed = {"x": np.arange(256, dtype=np.float32), "y": np.zeros(256, np.float32)}

    def halves_up(session, feed, _):
        outputs = [np.array(array) for array in session.run(None, feed)]
        names = [output.name for output in session.get_outputs()]
        result = outputs[names.index("out.q")]
        result[:] = np.floor(feed["x"] / 2 + 0.5)
        return outputs

    monkeypatch.setattr("snn_compile.compiler.running.integers.compare.run_samples", halves_up)
    found = compare_integers(network, [feed])[-1]
    assert (found.values, found.differing, found.wrong, found.largest) == (256, 64, 0, 1)


def test_kernels_with_tables_of_their_own_are_left_out():
    qdq = Qdq("Sigmoid", [[2, 30]])
    assert [operator.kind for operator in integer_operators(qdq.network())] == [
        "QuantizeLinear",
        "Sigmoid",
    ]
    found = compare_integers(qdq.network(), [qdq.feed()])
    assert [compared.operator for compared in found] == ["QuantizeLinear QuantizeLinear.x.all"]


def test_a_float_operator_between_integers_is_seen_from_its_floats():
    """PRelu has no kernel of integers; what QuantizeLinear behind it reads is floats."""
    qdq = Qdq("Tanh", [[2, 30]])
    network = qdq.network()
    assert [operator.kind for operator in integer_operators(network)] == ["QuantizeLinear"] * 2
    found = compare_integers(network, [qdq.feed()])
    assert [compared.wrong for compared in found] == [0, 0]


def test_tops_follow_integers_that_are_moved():
    network = Qdq("Conv", [[1, 4, 7, 7]], int8(6, 4, 3, 3), top=32).network()
    graph = network.proto.graph
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "x.q" and node.op_type == "DequantizeLinear":
                node.input[i] = "moved"
    graph.node.insert(2, onnx.helper.make_node("Identity", ["x.q"], ["moved"], "move"))
    conv = integer_operators(network)[-1]
    assert conv.kind == "Conv"
    assert conv.present[0].top == 32
    declared = [ValueInfoProto(name="result")]
    assert [value.name for value in graph.output] == [value.name for value in declared]
