"""Shortcuts carry the membrane potential: who reads the copy, who the spikes, and who asks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import export_model, model_from_text, run_model
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.passes.analysis.activations import find_activations
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.protos import nodes_below
from snn_compile.passes.graph.surgeon import import_model
from snn_compile.passes.neurons.membrane_shortcuts import membrane_shortcuts

IMAGES = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
CONVS = "float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u"


def net(nodes, weights=CONVS, inputs="", outputs="float[N,4,H,W] y"):
    return model_from_text(f"g (float[N,4,6,6] x{inputs}) => ({outputs}) <{weights}> {{ {nodes} }}")


def split(model, **feeds):
    """The model with its copies, and the lines about them; the function is that of before."""
    graph = canonicalise(import_model(model)).graph
    before = [activation.name for activation in find_activations(graph)[0]]
    result = membrane_shortcuts(graph)
    assert [activation.name for activation in find_activations(result.graph)[0]] == before
    changed = export_model(result.graph)
    feeds = {"x": IMAGES} | feeds
    for expected, got in zip(run_model(model, feeds), run_model(changed, feeds), strict=True):
        np.testing.assert_array_equal(got, expected)
    return changed, result.changes


def reads(model, op):
    """What the operators of a kind read, in order, in the main graph and below."""
    return [list(node.input) for node in nodes_below(model.graph) if node.op_type == op]


def copies(model):
    """Names of the tensors that copies write."""
    made = [name for node in nodes_below(model.graph) for name in node.output]
    return [name for name in made if ".shortcut" in name]


BLOCK = """
    [first] r = Relu (x) a = Conv (r, w) [second] s = Relu (a) b = Conv (s, v)
    c = Add (b, r) y = Conv (c, u)"""


def test_the_sum_of_a_block_reads_a_copy_and_its_convolution_the_spikes():
    changed, lines = split(net(BLOCK))
    assert lines == ["Relu first: shortcuts read a copy of it"]
    assert reads(changed, "Conv") == [["r", "w"], ["s", "v"], ["c", "u"]]
    assert reads(changed, "Add") == [["b", "r.shortcut"]]
    # The neuron reads the copy, so that one operator alone reads what is summed.
    assert sorted(reads(changed, "Relu")) == [["a"], ["r.shortcut"], ["x"]]


def test_over_several_timesteps_the_neuron_reads_currents_below_0_itself():
    graph = canonicalise(import_model(net(BLOCK))).graph
    changed = export_model(membrane_shortcuts(graph, one_step=False).graph)
    assert sorted(reads(changed, "Relu")) == [["a"], ["x"], ["x"]]


def test_a_copy_keeps_attributes_and_parameters():
    model = net(
        """
        r = LeakyRelu <alpha = 0.25> (x) a = Conv (r, w) b = Add (a, r)
        p = PRelu (b, slope) c = Conv (p, v) d = Add (c, p)
        q = Clip (d, zero, six) e = Conv (q, u) y = Add (e, q)""",
        CONVS + ", float[4,1,1] slope, float zero = {0}, float six = {6}",
    )
    changed, lines = split(model)
    assert len(lines) == 3
    assert copies(changed) == ["r.shortcut", "p.shortcut", "q.shortcut"]
    assert reads(changed, "PRelu") == [["b", "slope"]] * 2
    assert sorted(reads(changed, "Clip")) == [["d", "zero", "six"], ["q.shortcut", "zero", "six"]]


def test_one_copy_serves_every_reader_that_is_not_linear_at_every_operand():
    model = net(
        "r = Relu (x) a = Conv (r, w) b = Mul (r, r) c = Exp (r) d = Add (a, b) y = Add (c, d)"
    )
    changed, lines = split(model)
    assert len(lines) == 1
    assert reads(changed, "Mul") == [["r.shortcut", "r.shortcut"]]
    assert reads(changed, "Exp") == [["r.shortcut"]]
    assert reads(changed, "Conv") == [["r", "w"]]


def test_operators_that_only_move_values_are_looked_through():
    model = net(
        """
        r = Relu (x)
        m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
        a = Conv (m, w)
        t = Transpose <perm = [0, 1, 3, 2]> (r) f = Identity (t)
        y = Add (a, f)"""
    )
    changed, lines = split(model)
    assert len(lines) == 1
    assert reads(changed, "MaxPool") == [["r"]]
    assert reads(changed, "Transpose") == [["r.shortcut"]]


def test_what_moves_values_to_both_kinds_reads_the_spikes():
    both = "r = Relu (x) m = Transpose <perm = [0, 1, 3, 2]> (r) a = Conv (m, w) b = Add (a, m)"
    changed, lines = split(net(f"{both} y = Neg (b)"))
    assert (lines, copies(changed)) == ([], [])
    # A sum beside it still gets a copy of its own.
    changed, lines = split(net(f"{both} y = Add (b, r)"))
    assert len(lines) == 1
    assert reads(changed, "Transpose") == [["r"]]
    assert reads(changed, "Add") == [["a", "m"], ["b", "r.shortcut"]]


@pytest.mark.parametrize(
    "nodes",
    [
        "r = Relu (x) y = Conv (r, w)",
        "r = Relu (x) a = Conv (r, w) b = Conv (r, v) y = Add (a, b)",
        "r = Relu (x) a = Exp (r) y = Add (a, r)",
        "a = Conv (x, w) b = Conv (a, v) y = Add (a, b)",
    ],
    ids=["linear reader", "linear readers", "no linear reader", "no activation"],
)
def test_without_readers_of_both_kinds_nothing_changes(nodes):
    model = net(nodes)
    changed, lines = split(model)
    assert (lines, copies(changed)) == ([], [])
    assert len(changed.graph.node) == len(model.graph.node)


def test_outputs_of_the_network_are_what_the_neuron_gives():
    """Its own name, and what is only moved to an output."""
    outputs = "float[N,4,H,W] y, float[N,4,H,W] r, float[N,A,B,C] t"
    nodes = "r = Relu (x) a = Conv (r, w) y = Add (a, r) t = Transpose (r)"
    changed, lines = split(net(nodes, outputs=outputs))
    assert len(lines) == 1
    assert reads(changed, "Transpose") == [["r"]]
    assert reads(changed, "Add") == [["a", "r.shortcut"]]
    result = compile_model(net(nodes, outputs=outputs)).model
    [transpose] = [node for node in result.graph.node if node.op_type == "Transpose"]
    assert transpose.input[0] == "r"
    [neuron] = [node for node in result.graph.node if "r" in node.output]
    assert neuron.domain == "ai.snn"


def test_activations_that_stay_have_no_copy():
    model = model_from_text("""
        g (double[N,1] x) => (double[N,1] y) <double[1,1] w = {2}> {
            r = Relu (x) a = MatMul (r, w) y = Add (a, r)
        }""")
    graph = canonicalise(import_model(model)).graph
    result = membrane_shortcuts(graph)
    assert result.changes == []
    assert copies(export_model(result.graph)) == []


IF = """
    r = Relu (x)
    y = If (c) <
        then_branch = t () => (float[N,4,6,6] p) {
            q = Relu (x) a = Conv (q, w) b = Add (a, q) d = Conv (r, v) p = Add (b, d) },
        else_branch = e () => (float[N,4,6,6] s) { s = Add (x, r) }
    >"""


def test_bodies_of_if_are_split_and_read_a_copy_from_outside():
    model = net(IF, inputs=", bool c")
    for taken in (True, False):
        changed, lines = split(model, c=np.array(taken))
    assert sorted(lines) == [
        "Relu Relu:q: shortcuts read a copy of it",
        "Relu Relu:r: shortcuts read a copy of it",
    ]
    assert ["r", "v"] in reads(changed, "Conv")
    assert ["q", "w"] in reads(changed, "Conv")
    assert ["x", "r.shortcut"] in reads(changed, "Add")
    assert ["a", "q.shortcut"] in reads(changed, "Add")
    assert "r.shortcut" in [name for node in changed.graph.node for name in node.output]


def test_bodies_of_loops_are_left_alone():
    model = model_from_text("""
        g (float[4,4] x, int64 n, bool c) => (float[4,4] y) <float[4,4] w> {
            y = Loop (n, c, x) <body = b (int64 i, bool g, float[4,4] p) => (bool o, float[4,4] q) {
                o = Identity (g)
                r = Relu (p) a = MatMul (r, w) q = Add (a, r)
            }>
        }""")
    feed = {"x": IMAGES[0, 0, :4, :4], "n": np.array(2), "c": np.array(True)}
    changed, lines = split(model, **feed)
    assert (lines, copies(changed)) == ([], [])


def test_names_that_are_taken_are_not_taken_again():
    model = net("r = Relu (x) a = Conv (r, w) taken = Neg (a) y = Add (taken, r)")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == "taken":
                    names[position] = "r.shortcut"
    changed, lines = split(model)
    assert len(lines) == 1
    made = [name for node in changed.graph.node for name in node.output]
    assert len(set(made)) == len(made) == 5


def test_copies_have_a_line_of_coverage_and_are_not_kept_activations():
    result = compile_model(net(BLOCK))
    coverage = result.report.coverage
    lines = {line.name: line for line in coverage.lines if line.kind == "activation"}
    assert {name: line.status for name, line in lines.items()} == {
        "first": "converted",
        "first.shortcut": "shortcut",
        "second": "converted",
    }
    assert "membrane potential" in lines["first.shortcut"].reason
    assert coverage.counts["activation shortcut"] == 1
    assert coverage.kept_activations() == []
    [step] = [step for step in result.report.passes if step.name == "membrane_shortcuts"]
    assert step.changes == ["Relu first: shortcuts read a copy of it"]
    assert reads(result.model, "Relu") == [["x"]]
    compile_model(net(BLOCK), None, CompileOptions(strict=True))  # a copy is none that is kept


def test_with_spikes_asked_for_the_sums_read_them():
    result = compile_model(net(BLOCK), None, CompileOptions(shortcuts="spikes"))
    assert "membrane_shortcuts" not in [step.name for step in result.report.passes]
    assert result.report.settings["shortcuts"] == "spikes"
    assert copies(result.model) == []
    assert "activation shortcut" not in result.report.coverage.counts
    assert [sorted(names) for names in reads(result.model, "Add")][:1] == [["b", "r"]]
    assert reads(result.model, "Relu") == []


def test_a_sum_with_the_membrane_potential_is_closer(tmp_path):
    """Few levels: what the shortcut no longer loses is most of the error."""
    np.save(tmp_path / "x.npy", np.concatenate([IMAGES] * 8))
    model = net("r = Relu (x) a = Conv (r, w) y = Add (a, r)")
    errors = {}
    for shortcuts in ("membrane", "spikes"):
        options = CompileOptions(levels=2, shortcuts=shortcuts)
        report = compile_model(model, tmp_path / "x.npy", options).report
        errors[shortcuts] = report.verification.outputs[0].relative_l2
    assert errors["membrane"] < errors["spikes"]
