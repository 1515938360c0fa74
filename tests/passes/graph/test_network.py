"""Models whose large weights are held apart: nothing is lost, nothing is copied."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx import TensorProto, numpy_helper
from snn_compile.compiler.model_io.stream import write_network
from snn_compile.passes.graph.network import LARGE, check, detach, is_detached
from snn_compile.passes.graph.surgeon import export_network, import_model

NET = """
    g (float[N,100] x) => (float[N,100] y) <float[100,100] large, float[100] small> {
        a = MatMul (x, large)
        y = Add (a, small)
    }"""


def net():
    model = model_from_text(NET)
    model.doc_string = "doc"
    model.metadata_props.add(key="k", value="v")
    model.graph.initializer[0].doc_string = "weight"
    model.graph.initializer[0].metadata_props.add(key="a", value="b")
    return model


def test_large_weights_leave_the_proto_and_come_back():
    model = net()
    network = detach(model)
    assert list(network.weights) == ["large"]
    assert network.proto.ByteSize() < LARGE
    assert [is_detached(tensor) for tensor in network.proto.graph.initializer] == [True, False]
    assert network.attached() == model


def test_the_model_that_is_detached_stays_as_it_is():
    model = net()
    before = model.SerializeToString(deterministic=True)
    detach(model).weights["large"].sum()
    assert model.SerializeToString(deterministic=True) == before


def test_a_written_network_is_the_model_whole():
    network = detach(net())
    stream, again = io.BytesIO(), io.BytesIO()
    write_network(network, stream)
    write_network(network, again)
    assert stream.getvalue() == again.getvalue()
    written = onnx.load_from_string(stream.getvalue())
    onnx.checker.check_model(written, full_check=True)
    order = [tensor.name for tensor in net().graph.initializer]
    written.graph.initializer.sort(key=lambda tensor: order.index(tensor.name))
    assert written == net()


def test_a_graph_shares_the_weights():
    network = detach(net())
    exported = export_network(import_model(network))
    assert exported.weights["large"] is network.weights["large"]
    x = {"x": np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)}
    np.testing.assert_array_equal(run_model(exported, x)[0], run_model(net(), x)[0])


def test_the_digest_sees_every_value():
    model = net()
    other = net()
    values = numpy_helper.to_array(other.graph.initializer[0]).copy()
    values[7, 7] += 1
    other.graph.initializer[0].raw_data = values.tobytes()
    assert detach(model).sha256() == detach(net()).sha256()
    assert detach(model).sha256() != detach(other).sha256()


def test_types_that_numpy_lacks_stay_in_the_proto():
    model = net()
    tensor = model.graph.initializer.add(
        name="brain", data_type=TensorProto.BFLOAT16, dims=[LARGE], raw_data=bytes(2 * LARGE)
    )
    network = detach(model)
    assert tensor.name not in network.weights
    assert network.attached() == model


def test_the_checker_sees_shapes_of_detached_weights():
    network = detach(net())
    check(network.proto)
    network.proto.graph.initializer[0].dims[0] = 99
    with pytest.raises((onnx.shape_inference.InferenceError, onnx.checker.ValidationError)):
        check(network.proto)


def test_outputs_without_a_shape_pass():
    network = detach(net())
    network.proto.graph.output[0].type.tensor_type.ClearField("shape")
    check(network.proto)
