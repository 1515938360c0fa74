"""Models of one neuron, and how the operators' tests run and compare them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from snn_compile.runtime_ops import register
from snn_compile.runtime_ops.definition import DOMAIN

NUMPY_TYPE = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}


def operator_model(
    operator,
    inputs,
    *,
    element_type=TensorProto.FLOAT,
    shape=None,
    at_run_time=(),
    opset=17,
    with_body=True,
    form=None,
    **attributes,
):
    """A model of one neuron named 'neuron'.

    ``inputs`` are the values of all inputs but X; those named in ``at_run_time`` become inputs of
    the model. ``form`` is the body's, the general one if there is none. ``attributes`` complete the
    defaults; None leaves one out.
    """
    numpy_type = NUMPY_TYPE[element_type]
    given = {k: v for k, v in {**operator.defaults, **attributes}.items() if v is not None}
    node = helper.make_node(
        operator.name, list(operator.inputs), ["Y"], domain=DOMAIN, name="neuron", **given
    )
    constants = {name: np.asarray(value, numpy_type) for name, value in inputs.items()}
    graph_inputs = [helper.make_tensor_value_info("X", element_type, shape)]
    initializers = []
    for name, value in constants.items():
        if name in at_run_time:
            info = helper.make_tensor_value_info(name, element_type, [None] * value.ndim)
            graph_inputs.append(info)
        else:
            initializers.append(onnx.numpy_helper.from_array(value, name))
    outputs = [helper.make_tensor_value_info("Y", element_type, shape)]
    graph = helper.make_graph([node], "g", graph_inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    functions = [operator.function_body(opset, element_type, **form or {})] if with_body else []
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def session(model, *, library, threads=2, optimise=False):
    """A session on the kernels (``library``) or on the function bodies."""
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    # Threads that wait by spinning take the processor from the tests beside this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(),
        register(options) if library else options,
        providers=["CPUExecutionProvider"],
    )


def bits(array):
    """The array's bit patterns; every NaN counts as one and the same."""
    array = np.array(array)
    array[np.isnan(array)] = np.nan
    return array.view(f"u{array.dtype.itemsize}")


def assert_same_bits(first, second):
    """Equal in type, shape and every bit."""
    assert first.dtype == second.dtype
    np.testing.assert_array_equal(bits(first), bits(second), strict=True)


def assert_kernel_equals_body(model, feed):
    """Run both; the kernels' output."""
    kernel = session(model, library=True).run(None, feed)[0]
    body = session(model, library=False).run(None, feed)[0]
    assert kernel.shape == feed["X"].shape
    assert_same_bits(kernel, body)
    return kernel
