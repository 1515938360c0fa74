"""What the target int8 promises is checked: what is planted is refused."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MODELS
from helpers import full_weights
from integers_by_hand import Qdq, int8, int32
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import VerificationError
from snn_compile.compiler.running.integers import claims
from snn_compile.compiler.running.integers.compare import with_tensors
from snn_compile.compiler.running.integers.form import integer_operators, weighted_operators
from snn_compile.compiler.running.integers.overflow import largest_sums
from snn_compile.compiler.running.integers.parameters import differing_parameters
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.targets.int8 import Int8
from snn_compile.passes.graph.network import Network, constant_of, detach, set_constant

COMPARE = "snn_compile.compiler.running.integers.compare"


@pytest.fixture(scope="module", params=[255, 32])
def compiled(request):
    """The result, and the float network of the same neurons."""
    kept = []
    lower = Int8.lower

    def keep(self, quantised, options, steps):
        kept.append(quantised.snn)
        return lower(self, quantised, options, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Int8, "lower", keep)
        result = compile_model(
            MODELS / "digits_resnet_torchscript.onnx",
            MODELS / "digits_calibration.npz",
            CompileOptions(target="int8", levels=request.param),
        )
    return result, kept[0]


@pytest.fixture
def network(compiled):
    return compiled[0].network


@pytest.fixture
def floats(compiled):
    return compiled[1]


@pytest.fixture
def feeds():
    images = np.load(MODELS / "digits_calibration.npz")["image"][:8]
    return [{"image": image[None]} for image in images]


def copied(network):
    return detach(network.attached())


def changed(network, name, change):
    """A copy, one constant of it changed in place."""
    result = copied(network)
    values = np.array(constant_of(result, name))
    set_constant(result, name, np.asarray(change(values), values.dtype))
    return result


def first_weight(network):
    return weighted_operators(network)[0].weight.tensor


def raised(network, floats):
    with pytest.raises(VerificationError) as error:
        claims.parameters(network, floats)
    return str(error.value)


def test_each_compilation_states_them(compiled):
    result = compiled[0]
    parameters, overflow, exact, spikes = result.report.verification.claims
    assert parameters.startswith("integers stand for the float network's thresholds, weights")
    assert overflow.startswith("no sum overflows, whatever the samples: of two products at most ")
    values = int(exact.split()[0].replace(",", ""))
    assert values > 8 * 5_000
    assert "results of onnxruntime's integer kernels are those of the integer reference" in exact
    assert "argmax agrees on 100.00% of these samples" in spikes
    flips = result.report.verification.flips
    assert set(flips) == {operator.neuron for operator in integer_operators(result.network)} - {""}
    assert all(0 <= share < 0.8 for share in flips.values())
    assert min(flips.values()) == 0  # the input is encoded alike


def test_metadata_tells_the_weights(network):
    said = {entry.key: entry.value for entry in network.proto.metadata_props}
    assert said["snn_compile.int8_weights"] == "safe"


def test_kernels_seen_are_those_that_run(network, tmp_path):
    names = [operator.output for operator in integer_operators(network)]
    assert kernels_of(with_tensors(network, names), tmp_path) == kernels_of(network, tmp_path)


def kernels_of(network, tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(network.attached().SerializeToString(), options, ["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    return collections.Counter(n.op_type for n in nodes if n.op_type != "Transpose")


def test_another_weight_is_refused(network, floats):
    name = first_weight(network)
    other = changed(network, name, lambda w: w + np.eye(1, w.size, dtype=np.int8).reshape(w.shape))
    node = weighted_operators(network)[0].node
    assert f"{node.op_type} {node.name} has another weight or bias" in raised(other, floats)


def test_another_bias_is_refused(network, floats):
    operator = next(o for o in weighted_operators(network) if o.bias is not None)
    other = changed(network, operator.bias.tensor, lambda b: b + 1)
    assert f"{operator.node.name} has another weight or bias" in raised(other, floats)


def test_another_zero_point_scale_or_top_is_refused(network, floats):
    for node in network.proto.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = node.input[1:]
            for name, change in ((scale, lambda s: s * 1.01), (zero, lambda z: z + 1)):
                message = raised(changed(network, name, change), floats)
                assert "has another threshold or other levels" in message
        if node.op_type == "Min":
            message = raised(changed(network, node.input[1], lambda top: top + 1), floats)
            assert "has another threshold or other levels" in message


def test_what_is_whole_passes(network, floats):
    assert differing_parameters(copied(network), floats) == []


@pytest.mark.parametrize("fault", ["weight", "zero", "bias"])
def test_a_kernel_that_computes_otherwise_is_refused(network, feeds, monkeypatch, fault):
    """The runtime's network is another one, as if its kernels were wrong."""
    operator = next(o for o in integer_operators(network) if o.kind == "Conv")
    names = dict(zip(("weight", "bias"), (o.tensor for o in operator.present[1:]), strict=False))
    quantiser = next(n for n in network.proto.graph.node if n.name == operator.neuron)
    if fault == "zero":
        other = copied(network)
        node = next(n for n in other.proto.graph.node if n.name == quantiser.name)
        moved = numpy_helper.from_array(
            np.asarray(constant_of(network, quantiser.input[2]) + np.uint8(1)), "moved"
        )
        other.proto.graph.initializer.append(moved)
        node.input[2] = "moved"
    else:
        change = {"weight": lambda w: np.minimum(w, 20), "bias": lambda b: b * 2}[fault]
        other = changed(network, names[fault], change)
    monkeypatch.setattr(f"{COMPARE}.with_tensors", lambda _, kept: with_tensors(other, kept))
    with pytest.raises(
        VerificationError, match=rf"results of Conv {operator.node.name} in onnx"
    ) as error:
        claims.exact(network, feeds)
    assert str(error.value).endswith("please report this model and the processor")


def test_sums_that_saturate_are_refused(monkeypatch):
    """Two products of uint8 and int8 added up in 16 bits, as on x86 without VNNI."""
    qdq = Qdq("Gemm", [[64, 16]], int8(16, 8, most=127), along=1, out=0.5)
    network = qdq.network()
    (weighted,) = weighted_operators(network)
    operator = integer_operators(network)[-1]

    def saturating(session, feed, _):
        outputs = [np.array(array) for array in session.run(None, feed)]
        named = dict(zip([o.name for o in session.get_outputs()], outputs, strict=True))
        q, w = named["x.q"].astype(np.int32), weighted.weight.values
        pairs = np.einsum("npk,pko->npo", q.reshape(64, 8, 2), w.reshape(8, 2, 8))
        sums = np.clip(pairs, -32768, 32767).sum(axis=1) - operator.present[0].zero * w.sum(axis=0)
        assert (np.abs(pairs) > 32767).any()
        scale = operator.present[0].step * qdq.steps / operator.step
        result = np.rint(sums * scale) + operator.zero
        named["out.q"][:] = np.clip(result, 0, 255).astype(np.uint8)
        return outputs

    monkeypatch.setattr(f"{COMPARE}.run_samples", saturating)
    with pytest.raises(VerificationError, match=r"of 512 results of Gemm Gemm\.potential") as error:
        claims.exact(network, [qdq.feed()])
    assert "leave out --int8-weights full" in str(error.value)


def test_weights_above_the_safe_rule_are_refused(network):
    operator = weighted_operators(network)[0]
    assert operator.signal.top == 255 or operator.signal.top == 32
    most = 32767 // (2 * operator.signal.top)
    largest = {32: 127}.get(operator.signal.top, most + 1)
    other = changed(network, operator.weight.tensor, lambda w: np.where(w == w.max(), largest, w))
    if largest > most:
        with pytest.raises(VerificationError, match="two products up to 33,150, which 16 bits"):
            claims.no_overflow(other, pairs=True)
    text = claims.no_overflow(other, pairs=False)
    assert "weights are full" in text


def test_a_compilation_with_unsafe_weights_ends_with_code_5(monkeypatch):
    for where in ("passes.lowering.quantise_linear", "compiler.calibration.calibrate"):
        monkeypatch.setattr(f"snn_compile.{where}.safe_weight", lambda _: 127, raising=False)
    with pytest.raises(VerificationError, match="which 16 bits do not hold") as error:
        compile_model(
            MODELS / "digits_resnet_torchscript.onnx",
            MODELS / "digits_calibration.npz",
            CompileOptions(target="int8", bias_correction=False, compensation=False),
        )
    assert error.value.exit_code == 5


def test_full_weights_promise_less():
    options = CompileOptions(target="int8", int8_weights="full", bias_correction=False)
    model, samples = MODELS / "digits_resnet_torchscript.onnx", MODELS / "digits_calibration.npz"
    with full_weights():
        result = compile_model(model, samples, options)
    assert "weights are full" in result.report.verification.claims[1]
    said = {entry.key: entry.value for entry in result.network.proto.metadata_props}
    assert said["snn_compile.int8_weights"] == "full"
    assert max(sums.pair for sums in largest_sums(result.network)) == 2 * 255 * 127


def test_largest_sums_are_those_of_the_worst_input():
    weight, bias = int8(5, 3, 2, 2), int32(5)
    (sums,) = largest_sums(Qdq("Conv", [[1, 3, 4, 4]], weight, bias=bias, top=40).network())
    totals = np.abs(weight.astype(int)).reshape(5, -1).sum(axis=1) * 40 + np.abs(bias)
    assert sums.total == totals.max()
    assert sums.pair == 2 * 40 * np.abs(weight.astype(int)).max()


def test_sums_beyond_32_bits_are_refused():
    bias = np.full(2, 2**31 - 1, np.int32)
    network = Qdq("Gemm", [[1, 4]], int8(4, 2), along=1, bias=bias).network()
    with pytest.raises(VerificationError, match=r"all products up to .*, which 32 bits"):
        claims.no_overflow(network, pairs=True)


def test_spikes_are_counted_as_by_hand(network, floats, feeds):
    neuron = next(n for n in floats.proto.graph.node if n.op_type == "MultiThresholdFire")
    operator = [o for o in integer_operators(network) if o.neuron == neuron.name][-1]
    theta = constant_of(floats, neuron.input[1])
    session = make_session(with_tensors(floats, [neuron.output[0]]))
    integers = make_session(with_tensors(network, [operator.output]))
    differing, values = 0, 0
    for feed in feeds:
        k = session.run(None, feed)[0] / theta
        q = integers.run(None, feed)[0].astype(int) - operator.zero
        differing += int((np.rint(k) != q).sum())
        values += q.size
    _, shares = claims.spikes(network, floats, feeds)
    assert shares[neuron.name] == differing / values


def test_another_network_fires_otherwise(network, floats, feeds):
    other = changed(network, first_weight(network), lambda w: -w)
    before = claims.spikes(network, floats, feeds)[1]
    after = claims.spikes(other, floats, feeds)[1]
    assert sum(after.values()) > 2 * sum(before.values())


def test_networks_without_integers_say_nothing():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        *("none", [onnx.helper.make_tensor_value_info("x", 1, [2])]),
        [onnx.helper.make_tensor_value_info("y", 1, [2])],
    )
    network = Network(onnx.helper.make_model(graph, ir_version=8))
    assert integer_operators(network) == []
    assert "at most 0 in 16 bits" in claims.no_overflow(network, pairs=True)
