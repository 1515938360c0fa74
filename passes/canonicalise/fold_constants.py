"""Compute what depends on constants and static shapes alone.

1. Constant nodes become constants, with the type they declare. Constants that graphs cannot hold
   (strings as attributes, sparse tensors) stay nodes.
2. Shape and Size of a tensor whose shape is static, and Gather and Slice that pick static
   dimensions out of a shape that is not.
3. Every standard operator whose inputs are all constants is computed by the runtime that will also
   run the network. Random numbers, quantisation (a statement about the network, not arithmetic),
   control flow, strings and sequences are left.
4. If with a constant condition is replaced by its branch; see ``inline_if.py``.
5. The same inside the bodies of If, Loop and Scan. A body's output stays computed by a node.

A result is kept as a node where it would be larger than 64 MiB and than its inputs, where its size
cannot be told before it is computed, or when all results together exceed 1 GiB and four times the
model's own weights, so that a small file cannot grow without bound. ConstantOfShape takes no memory
here, all its elements are one; larger than 64 MiB it is computed as the weight of a linear operator
alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, helper, numpy_helper

from ..analysis.operators import Role, properties, standard
from ..graph.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    bodies,
    is_constant,
    is_standard,
    unique_name,
    values_of,
)
from ..graph.network import LARGE
from ..graph.surgeon import add_node, constant, make_constant, node_proto, variable
from .inline_if import inline_if

#: One value for each output of a node, None for those nobody reads.
_Results: TypeAlias = Sequence[np.ndarray | Constant | None]

_LARGEST = 64 << 20
_LARGEST_TOTAL = 1 << 30


@dataclass
class Budget:
    """Bytes that results may still take, over all rounds."""

    left: int


def budget_for(graph: Graph) -> Budget:
    """What the rules allow for a graph of these weights."""
    weights = sum(_nbytes(t) for t in graph.tensors().values() if is_constant(t))
    return Budget(max(_LARGEST_TOTAL, 4 * weights))


def fold_constants(graph: Graph, budget: Budget) -> list[str]:
    """Apply the rules in place; the dead nodes are for ``tidy`` to drop.

    Args:
        graph: the main graph, shapes inferred, nodes sorted.
        budget: is used up.

    Returns:
        A line for each If that was replaced by one of its branches.
    """
    folder = _Folder(graph, budget)
    folder.fold(graph, is_body=False)
    return folder.changes


class _Folder:
    def __init__(self, graph: Graph, budget: Budget) -> None:
        self.changes: list[str] = []
        self._top = graph
        self._imports = [o for o in graph.envelope.opset_import if o.domain in ("", "ai.onnx")]
        self._ir_version = graph.envelope.ir_version
        self._budget = budget

    def fold(self, graph: Graph, *, is_body: bool) -> None:
        waiting = list(reversed(graph.nodes))
        while waiting:
            node = waiting.pop()
            if not is_standard(node):
                continue
            if node.op == "If" and is_constant(node.inputs[0]) and node.inputs[0].values.size == 1:
                inlined = inline_if(self._top, graph, node)
                self.changes.append(f"If {node.name}: its condition is constant, branch inlined")
                waiting += reversed(inlined)
                continue
            for body in bodies(node):
                self.fold(body, is_body=True)
            results = self._results(node)
            if results is not None:
                _replace(graph, node, results, is_body)

    def _results(self, node: Node) -> _Results | None:
        """What it computes; None if it is to stay."""
        if node.op == "Constant":
            _give_type(node)
            value = node.attrs.get("value")
            return None if value is None else [value]
        shape = _static_shape(node)
        if shape is not None:
            return [shape]
        given = [tensor for tensor in node.inputs if not tensor.is_empty()]
        inputs = [tensor for tensor in given if is_constant(tensor) and _is_plain(tensor)]
        if _is_kept(node) or len(inputs) < len(given):
            return None
        if not node.outputs or not self._fits(node, inputs):
            return None
        if node.op == "ConstantOfShape":
            return _filled(node)
        return self._run(node)

    def _fits(self, node: Node, inputs: list[Constant]) -> bool:
        given = sum(tensor.values.nbytes for tensor in inputs if any(tensor.values.strides))
        size = self._result_size(node)
        if size is None and standard(node).at_most_one_each:  # 8 bytes of each element and axis
            size = sum(8 * tensor.values.size * max(tensor.values.ndim, 1) for tensor in inputs)
        if size is None:
            return False
        if size > max(_LARGEST, given) and not _fills_weight(node):
            return False
        if size > self._budget.left:
            return False
        self._budget.left -= size
        return True

    def _result_size(self, node: Node) -> int | None:
        """Bytes of all outputs, from the inferred shapes."""
        if node.op == "Range":  # runtimes take [1] for a scalar, inference does not
            return _range_size(node)
        model = self._model(node)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception:  # native code; whatever it says, there is no size
            return None
        size = 0
        for value in inferred.graph.output:
            tensor = value.type.tensor_type
            dims = tensor.shape.dim
            if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
                return None
            try:
                itemsize = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            except KeyError:
                return None
            count = 1
            for dim in dims:
                count *= max(dim.dim_value, 0)
            size += count * itemsize
        return size

    def _model(self, node: Node) -> ModelProto:
        """The node alone; small inputs are initializers, the others are fed."""
        tensors = {tensor.name: tensor for tensor in filter(is_constant, node.inputs)}
        inside = {name: t for name, t in tensors.items() if _nbytes(t) <= LARGE}
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(tensor.values.dtype), tensor.values.shape
            )
            for name, tensor in tensors.items()
            if name not in inside
        ]
        outputs = [helper.make_empty_tensor_value_info(t.name) for t in _used_outputs(node)]
        graph = helper.make_graph(
            [node_proto(node)],
            "constant",
            inputs,
            outputs,
            [numpy_helper.from_array(_values(node, t), name) for name, t in inside.items()],
        )
        model = helper.make_model(graph, opset_imports=self._imports)
        model.ir_version = self._ir_version
        return model

    def _run(self, node: Node) -> _Results | None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = self._model(node)
        fed = {value.name for value in model.graph.input}
        feed = {t.name: np.ascontiguousarray(values_of(t)) for t in node.inputs if t.name in fed}
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), options, ["CPUExecutionProvider"]
            )
            names = [tensor.name for tensor in _used_outputs(node)]
            values = dict(zip(names, session.run(names, feed), strict=True))
        except Exception:  # no kernel, or values it refuses: the network keeps the node
            return None
        if not all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in values.values()):
            return None
        return [values.get(tensor.name) for tensor in node.outputs]


def _is_kept(node: Node) -> bool:
    """What it computes is not determined by its inputs, or is not arithmetic."""
    quantises = properties(node.op).role is Role.QUANTISATION
    return properties(node.op).random or quantises or bool(bodies(node))


def _fills_weight(node: Node) -> bool:
    readers = node.outputs[0].outputs
    return node.op == "ConstantOfShape" and all(standard(reader).weighted for reader in readers)


def _values(node: Node, tensor: Constant) -> np.ndarray:
    return tensor.values.reshape(()) if node.op == "Range" else tensor.values


def _range_size(node: Node) -> int | None:
    inputs = [values_of(tensor) for tensor in node.inputs]
    if any(values.size != 1 for values in inputs):
        return None
    start, limit, delta = (float(values.item()) for values in inputs)
    if delta == 0 or not np.isfinite((limit - start) / delta):
        return None
    return max(int(np.ceil((limit - start) / delta)), 0) * inputs[0].itemsize


def _used_outputs(node: Node) -> list[Tensor]:
    return [tensor for tensor in node.outputs if not tensor.is_empty()]


def _nbytes(tensor: Constant) -> int:
    count = math.prod(tensor.shape)
    dtype = tensor.dtype
    return count * (dtype.itemsize if isinstance(dtype, np.dtype) else 2)


def _is_plain(tensor: Constant) -> bool:
    """Whether numpy itself has the element type."""
    return isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind in "fiub"


def _replace(graph: Graph, node: Node, results: _Results, is_body: bool) -> None:
    outputs = list(node.outputs)
    node.outputs.clear()
    node.inputs.clear()
    for tensor, values in zip(outputs, results, strict=True):
        if values is None or tensor.is_empty():
            continue
        if is_body and any(tensor is output for output in graph.outputs):
            held = variable(unique_name(graph, f"{tensor.name}.value"))
            make_constant(held, values)
            name = unique_name(graph, f"Identity:{tensor.name}")
            add_node(graph, "Identity", name, [held], tensor)
        else:
            make_constant(tensor, values)


def _give_type(node: Node) -> None:
    """Write numbers given as attributes as a typed tensor; numpy alone would make them 64 bit."""
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for key, dtype in types.items():
        if isinstance(node.attrs.get(key), (int, float, list)):
            values = np.array(node.attrs.pop(key), dtype)
            node.attrs["value"] = constant("", values)


def _filled(node: Node) -> _Results | None:
    """All elements share one in memory."""
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.values
    if fill.dtype.kind not in "fiub" or fill.size != 1:
        return None
    shape = tuple(int(dim) for dim in values_of(node.inputs[0]))
    return [np.broadcast_to(fill.reshape(()), shape)]


def _static_shape(node: Node) -> np.ndarray | None:
    if node.op == "Shape":
        dims = _dims_of_shape(node)
        return _integers(dims) if dims is not None else None
    if node.op == "Size":
        shape = None if node.inputs[0].shape is None else _integers(node.inputs[0].shape)
        return None if shape is None else np.array(np.prod(shape), np.int64)
    if node.op in ("Gather", "Slice"):
        source = node.inputs[0].inputs
        if len(source) != 1 or source[0].op != "Shape" or not is_standard(source[0]):
            return None
        dims = _dims_of_shape(source[0])
        if dims is None or not all(is_constant(t) or t.is_empty() for t in node.inputs[1:]):
            return None
        return _gathered(node, dims) if node.op == "Gather" else _sliced(node, dims)
    return None


def _dims_of_shape(node: Node) -> Sequence[object] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    return list(shape)[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]


def _integers(dims: Sequence[object]) -> np.ndarray | None:
    known = [dim for dim in dims if isinstance(dim, int)]
    return np.array(known, np.int64) if len(known) == len(dims) else None


def _gathered(node: Node, dims: Sequence[object]) -> np.ndarray | None:
    index = values_of(node.inputs[1])
    if index.size and not (index.min() >= -len(dims) and index.max() < len(dims)):
        return None
    picked = _integers([dims[i] for i in index.reshape(-1).tolist()])
    return None if picked is None else picked.reshape(index.shape)


def _sliced(node: Node, dims: Sequence[object]) -> np.ndarray | None:
    given = [None if t.is_empty() else values_of(t).reshape(-1).tolist() for t in node.inputs[1:]]
    starts, ends, _, steps = [*given, None, None, None][:4]
    if not starts or not ends or len(starts) != 1 or len(ends) != 1:
        return None
    step = steps[0] if steps else 1
    if step <= 0:  # a negative end means something else there
        return None
    return _integers(dims[starts[0] : ends[0] : step])
