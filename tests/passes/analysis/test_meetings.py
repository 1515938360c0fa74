"""Which neurons meet in a sum."""

from __future__ import annotations

import pytest
from helpers import model_from_text
from snn_compile.passes.analysis.meetings import meetings
from snn_compile.passes.graph.network import detach
from snn_compile.passes.graph.surgeon import import_model

HEAD = "g (float[N,4,6,6] x) => (float[N,a,b,c] y) <float[4,4,1,1] w, float k = {2}> {"
CASES = {
    "a residual sum": ("a = Relu (x) b = Relu (x) y = Add (a, b)", [["a", "b"]]),
    "a chain of sums": (
        "a = Relu (x) b = Relu (x) s = Add (a, b) c = Relu (s) t = Add (c, b) y = Relu (t)",
        [["a", "b", "c"]],
    ),
    "moved": (
        "a = Relu (x) b = Relu (x) p = MaxPool <kernel_shape=[1,1]> (a) y = Add (p, b)",
        [["a", "b"]],
    ),
    "joined": ("a = Relu (x) b = Relu (x) y = Concat <axis=1> (a, b)", [["a", "b"]]),
    "joined, then added": (
        "a = Relu (x) b = Relu (x) c = Relu (x) d = Concat <axis=0> (a, b) "
        "e = Concat <axis=0> (c, c) y = Add (d, e)",
        [["a", "b", "c"]],
    ),
    "one with floats": ("a = Relu (x) b = Conv (x, w) y = Add (a, b)", []),
    "joined with floats, then added": (
        "a = Relu (x) b = Relu (x) c = Concat <axis=0> (a, x) d = Concat <axis=0> (b, b) "
        "y = Add (c, d)",
        [],
    ),
    "one with a constant": ("a = Relu (x) y = Add (a, k)", []),
    "a product": ("a = Relu (x) b = Relu (x) y = Mul (a, b)", []),
    "two pairs": (
        "a = Relu (x) b = Relu (x) s = Add (a, b) c = Conv (s, w) d = Relu (c) e = Relu (c) "
        "y = Add (d, e)",
        [["a", "b"], ["d", "e"]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_neurons_that_meet(name):
    body, expected = CASES[name]
    graph = import_model(detach(model_from_text(HEAD + body + "}")))
    fired = {node.outputs[0].name for node in graph.nodes if node.op == "Relu"}
    assert sorted(map(sorted, meetings(graph, fired))) == expected
