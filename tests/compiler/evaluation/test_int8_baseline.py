"""The int8 baseline is what its description says."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from conftest import MODELS
from helpers import model_from_text
from onnx import TensorProto, numpy_helper
from snn_compile.compiler.errors import DataError, ModelError
from snn_compile.compiler.evaluation.int8_baseline import BATCH, quantise, saturation_warnings
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.graph.network import detach

NETWORK = MODELS / "digits_resnet_dynamo.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"


def quantised(folder, **options):
    ann = read_model(NETWORK)
    samples = FileSamples(CALIBRATION, input_specs(ann.proto))
    model = onnx.load(quantise(ann, samples.batches(BATCH), folder, **options))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return model, constants


def test_weights_are_int8_per_channel_and_activations_uint8_per_tensor(tmp_path):
    model, constants = quantised(tmp_path)
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) > 6
    for layer in layers:
        activation, weight = (makers[name] for name in layer.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        values, scale = (constants[name] for name in weight.input[:2])
        assert values.data_type == TensorProto.INT8
        axis = next((a.i for a in weight.attribute if a.name == "axis"), 0)
        assert list(scale.dims) == [values.dims[axis]]
        scale, zero = (constants[name] for name in activation.input[1:3])
        assert zero.data_type == TensorProto.UINT8
        assert list(scale.dims) == []


def test_ranges_are_those_of_the_calibration_samples(tmp_path):
    model, constants = quantised(tmp_path)
    first = next(node for node in model.graph.node if node.input[0] == "image")
    with np.load(CALIBRATION) as data:
        images = data["image"]
    scale = numpy_helper.to_array(constants[first.input[1]])
    assert scale == pytest.approx((images.max() - min(images.min(), 0)) / 255, rel=1e-6)


def test_networks_of_an_opset_without_integers_per_channel_run(tmp_path):
    graph = "net (float[n, 2, 4, 4] x) => (float[n, 3, 2, 2] y) <float[3, 2, 3, 3] w>"
    old = model_from_text(f"{graph} {{ y = Conv (x, w) }}", opset=11)
    x = np.random.default_rng(0).standard_normal((8, 2, 4, 4)).astype(np.float32)
    file = quantise(detach(old), [{"x": x}], tmp_path)
    assert any(node.op_type == "DequantizeLinear" for node in onnx.load(file).graph.node)
    got, expected = (  # as written, sums are of floats, which saturate on no processor
        make_session(network, library=False, optimise=False).run(None, {"x": x})[0]
        for network in (read_model(file), detach(old))
    )
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    assert old.opset_import[0].version == 11


def test_logging_is_left_as_it_was(tmp_path):
    root = logging.getLogger()
    before = (root.handlers[:], logging.root.manager.disable)
    quantised(tmp_path)
    assert (root.handlers, logging.root.manager.disable) == before


def test_what_cannot_be_quantised_is_refused(tmp_path):
    model = detach(model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"))
    with pytest.raises(ModelError, match="onnxruntime cannot quantise the ANN"):
        quantise(model, [{"z": np.ones((1, 3), np.float32)}], tmp_path)


def test_samples_that_are_refused_while_they_are_read(tmp_path):
    def feeds():
        yield {"x": np.ones((1, 3), np.float32)}
        raise DataError("NaN in sample 1")

    model = detach(model_from_text("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"))
    with pytest.raises(DataError, match="NaN in sample 1"):
        quantise(model, feeds(), tmp_path)


def test_operators_that_may_saturate_are_counted_from_weights(tmp_path):
    """Two products of 255 and |w| fit into 16 bits up to |w| = 64."""
    model, constants = quantised(tmp_path)
    path = tmp_path / "quantised.onnx"
    (warning,) = saturation_warnings(path)
    assert "in 7 of 7 operators" in warning
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for number, layer in enumerate(layers):
        weight = constants[makers[layer.input[1]].input[0]]
        values = np.clip(numpy_helper.to_array(weight), -64, 64)
        values.reshape(-1)[0] = -65 if number == 2 else -64
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    assert "in 1 of 7 operators" in saturation_warnings(path)[0]
    weight = constants[makers[layers[2].input[1]].input[0]]
    values = np.clip(numpy_helper.to_array(weight), -64, 64)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    assert saturation_warnings(path) == []
