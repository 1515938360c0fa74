"""The coverage report: a line for everything, and the arithmetic that receives spikes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.report.coverage import linear_tensors, measure_coverage
from snn_compile.compiler.running.probe import probe
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.neurons.encode_edges import encode_edges


def coverage_of(model, sample, encode=True, encode_input=False):
    source = load_source(model).network
    graph = canonicalise(import_model(source)).graph
    if encode:
        graph = encode_edges(graph, encode_input).graph
    activations, kept = find_activations(graph)
    shapes = probe(export_network(graph), linear_tensors(graph), sample)
    return measure_coverage(graph, activations, kept, source.proto, shapes)


NET = """
    g (float[N,4,6,6] x) => (float[N,5] y)
        <float[8,4,3,3] w1, float[8,1,3,3] w2, float[5,288] w3, float[5,5] w4> {
        [c1] a = Conv (x, w1)
        [r] b = Relu (a)
        [c2] c = Conv <group = 8, pads = [2,2,2,2], strides = [1,1]> (b, w2)
        [flat] d = Flatten (c)
        [g] e = Gemm <transB = 1> (d, w3)
        [s] f = Softmax (e)
        [m] h = MatMul (f, w4)
        [last] y = Softmax (h)
    }"""


def test_every_operator_has_a_line_with_what_became_of_it():
    x = {"x": np.ones((1, 4, 6, 6), np.float32)}
    coverage = coverage_of(model_from_text(NET), x)
    assert [(line.name, line.kind, line.status) for line in coverage.lines] == [
        ("c1", "linear", "kept"),
        ("r", "activation", "converted"),
        ("c2", "linear", "converted"),
        ("g", "linear", "encoded"),
        ("s", "normalisation", "encoded"),
        ("m", "linear", "encoded"),
        ("last", "normalisation", "kept"),
    ]
    assert "own input" in coverage.lines[0].reason
    assert "no linear operator reads it" in coverage.lines[-1].reason
    assert coverage.counts == {
        "linear kept": 1,
        "activation converted": 1,
        "linear converted": 1,
        "linear encoded": 2,
        "normalisation encoded": 1,
        "normalisation kept": 1,
    }
    assert [line.location for line in coverage.lines][:3] == ["node 0", "node 1", "node 2"]


def test_multiply_accumulates_are_those_of_loops_by_hand():
    x = {"x": np.ones((1, 4, 6, 6), np.float32)}
    coverage = coverage_of(model_from_text(NET), x)
    conv1 = sum(4 * 3 * 3 for _ in range(8 * 4 * 4))
    conv2 = sum(3 * 3 for _ in range(8 * 6 * 6))
    gemm, matmul = 288 * 5, 5 * 5
    macs = {line.name: line.macs for line in coverage.lines if line.kind == "linear"}
    assert macs == {"c1": conv1, "c2": conv2, "g": gemm, "m": matmul}
    assert coverage.macs == conv1 + conv2 + gemm + matmul
    assert coverage.spiking_share == (conv2 + gemm + matmul) / coverage.macs
    asked = coverage_of(model_from_text(NET), x, encode_input=True)
    assert asked.spiking_share == 1
    alone = coverage_of(model_from_text(NET), x, encode=False)
    assert alone.spiking_macs == conv2


def test_fan_out_is_the_products_that_a_value_enters():
    x = {"x": np.ones((1, 4, 6, 6), np.float32)}
    coverage = coverage_of(model_from_text(NET), x)
    conv2 = next(line.macs for line in coverage.lines if line.name == "c2")
    of_relu = {"b": conv2 / (8 * 4 * 4)}
    of_encoders = {name: 5.0 for name in coverage.fan_out if name not in of_relu}
    assert len(of_encoders) == 2 and coverage.fan_out == of_relu | of_encoders


def test_fan_out_is_of_what_spikes_reach_as_spikes():
    """Through pooling and joins; not through a sum of two, which is analog."""
    model = model_from_text("""
        g (float[N,4,6,6] x, float[N,4,6,6] u) => (float[N,4,1,1] y, float[N,3] z, float[N,3,6,6] o)
            <float[3,8] w, float[3,4,1,1] k> {
            a = Relu (x)
            b = Relu (u)
            s = Add (a, b)
            o = Conv (s, k)
            joined = Concat <axis = 1> (a, b)
            pooled = GlobalMaxPool (joined)
            flat = Flatten (pooled)
            z = Gemm <transB = 1> (flat, w)
            c = Relu (u)
            y = GlobalMaxPool (c)
        }""")
    feed = {name: np.ones((1, 4, 6, 6), np.float32) for name in "xu"}
    coverage = coverage_of(model, feed, encode=False)
    assert coverage.fan_out == {"a": 3.0, "b": 3.0, "c": 0.0}


@pytest.mark.parametrize(
    ("nodes", "weights", "macs"),
    [
        ("y = ConvTranspose <strides = [2,2]> (r, w)", "float[4,3,2,2] w", 4 * 36 * 3 * 4),
        ("y = Conv <dilations = [2,2]> (r, w)", "float[3,4,2,2] w", 3 * 16 * 16),
        ("y = MatMul (r, w)", "float[6,7] w", 4 * 6 * 7 * 6),
        ("y = MatMul (r, r)", "float[1] w", 4 * 6 * 6 * 6),
        ('y = Einsum <equation = "nchw,ck->nkhw"> (r, w)', "float[4,3] w", 4 * 36 * 3),
    ],
)
def test_multiply_accumulates_of_the_other_operators(nodes, weights, macs):
    model = model_from_text(f"""
        g (float[N,4,6,6] x) => (float[N,A,B,C] y) <{weights}> {{ r = Relu (x) {nodes} }}""")
    coverage = coverage_of(model, {"x": np.ones((1, 4, 6, 6), np.float32)})
    assert coverage.macs == coverage.spiking_macs == macs


def test_operators_in_loops_and_recurrent_layers_are_listed_with_the_reason():
    model = model_from_text("""
        g (float[5,N,3] x, int64 n, bool c) => (float[5,1,N,4] y, float[4,4] z)
            <float[1,16,3] w, float[1,16,4] r, float[4,4] s, float[4,4] k> {
            y = LSTM <hidden_size = 4> (x, w, r)
            e = Exp (s)
            z = Loop (n, c, e) <body = b (int64 i, bool g, float[4,4] p) => (bool o, float[4,4] q) {
                o = Identity (g)
                a = MatMul (p, k)
                q = Tanh (a)
            }>
        }""")
    feed = {"x": np.ones((5, 1, 3), np.float32), "n": np.array(2), "c": np.array(True)}
    coverage = coverage_of(model, feed)
    lines = {line.op: line for line in coverage.lines}
    assert set(lines) == {"LSTM", "MatMul", "Tanh"}
    assert {line.status for line in lines.values()} == {"kept"}
    assert "recurrent" in lines["LSTM"].reason
    assert "inside the body of Loop" in lines["Tanh"].reason
    assert "inside the body of Loop" in lines["MatMul"].reason
    assert coverage.unknown_macs == 1


def test_locations_name_the_file_and_line_that_the_exporter_recorded():
    model = model_from_text(NET)
    model.graph.node[1].metadata_props.add(
        key="pkg.torch.onnx.stack_trace",
        value='File "net.py", line 12, in forward\n  x = self.block(x)\n'
        'File "block.py", line 7, in forward\n  return F.relu(x)',
    )
    model.graph.node[2].doc_string = "conv.py(31): forward\nnet.py(12): forward\n"
    coverage = coverage_of(model, {"x": np.ones((1, 4, 6, 6), np.float32)})
    locations = {line.name: line.location for line in coverage.lines}
    assert locations["r"] == "node 1, block.py:7"
    assert locations["c2"] == "node 2, conv.py:31"


def test_the_report_counts_what_the_compiled_model_contains():
    result = compile_model(model_from_text(NET), None, CompileOptions())
    coverage, neurons = result.report.coverage, result.report.neurons
    converted = [line for line in coverage.lines if line.kind == "activation"]
    assert [n.source_node for n in neurons if n.source_op != "Encoder"] == [
        line.name for line in converted
    ]
    assert len([n for n in neurons if n.source_op == "Encoder"]) == 2
