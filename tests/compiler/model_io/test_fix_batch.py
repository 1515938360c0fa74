"""A fixed batch: inputs, outputs, what is refused."""

from __future__ import annotations

import pytest
from helpers import model_from_text
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io.fix_batch import fix_batch
from snn_compile.passes.graph.network import detach


def shapes(network):
    return [
        [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*network.proto.graph.input, *network.proto.graph.output)
    ]


def test_the_axis_gets_its_length_wherever_it_is():
    model = model_from_text("""g (float[N,4,T] x, float[4,4] s) => (float[4,N,T] y, float[M,T] z)
        <int64[1] one = {1}> {
        a = MatMul (s, x) y = Transpose <perm = [1,0,2]> (a)
        b = ReduceSum <keepdims = 0> (x, one) z = Relu (b) }""")
    network = detach(model)
    with pytest.raises(ModelError, match="'s' has a batch of 4; leave out --batch"):
        fix_batch(network, 2)
    fixed = fix_batch(network, 4)
    assert shapes(fixed) == [[4, 4, "T"], [4, 4], [4, 4, "T"], [4, "T"]]
    assert shapes(network)[0] == ["N", 4, "T"]


def test_a_batch_that_the_model_does_not_take():
    model = model_from_text("""g (float[N,4] x) => (float[N,4] y) <float[3,4] b> {
        y = Add (x, b) }""")
    assert shapes(fix_batch(detach(model), 3)) == [[3, 4], [3, 4]]
    with pytest.raises(ModelError, match="does not take a batch of 2"):
        fix_batch(detach(model), 2)
