"""The graph that passes rewrite: what they may use of it, and what needs no more than that.

The classes are protocols. :mod:`.surgeon` makes the objects; they are onnx-graphsurgeon's, with
some attributes more. Nodes and tensors are linked: whatever is put into or taken out of a node's
``inputs`` or ``outputs`` changes the ``outputs`` or ``inputs`` of the tensor, and the other way
round. A tensor of an outer scope is the same object in the bodies that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    TensorAnnotation,
    TensorProto,
    ValueInfoProto,
)

from .protos import bodies_of

#: Prefix of every metadata key this project writes; keys of others are never touched.
METADATA_PREFIX = "snn_compile."

#: Domain of the functions that stand for activations and normalisations which the model's opset
#: has no operator for, such as Swish before 24. They are defined in the model that calls them.
ANN_DOMAIN = "ai.snn.ann"


class Tensor(Protocol):
    """A tensor, or by :meth:`is_empty` the place of an optional one that is not given.

    Attributes:
        name: unique over all scopes of a model.
        dtype: element type; its number in ONNX where numpy has none, None where it is not known.
        shape: lengths; a name or None where one is not known. None if not even the rank is known.
        inputs: the node that computes it, if any.
        outputs: the nodes that read it, one entry for each input.
    """

    name: str
    dtype: np.dtype | int | None
    shape: Sequence[int | str | None] | None
    inputs: list[Node]
    outputs: list[Node]

    def is_empty(self) -> bool:
        """Whether it stands for an optional tensor that is not given."""


class Constant(Tensor, Protocol):
    """A tensor that is known at compile time, an initializer of the exported model.

    Attributes:
        shape: its lengths.
        values: read from the model when first asked for. Not to be written to, they are shared.
    """

    shape: Sequence[int]
    values: np.ndarray


class Node(Protocol):
    """A call of an operator.

    Attributes:
        op: the operator's name.
        name: unique over all scopes of a model once they are canonical, or empty.
        domain: of the operator; see :func:`is_standard`.
        attrs: attributes by name. The operator's schema says of what type each is: a number, text,
            a list of one of these, a Constant or a Graph.
        inputs: tensors that it reads; those in bodies not counted.
        outputs: tensors that it computes.
        extras: what the exported node has besides.
    """

    op: str
    name: str
    domain: str | None
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    extras: NodeExtras


class Graph(Protocol):
    """The main graph of a model, or a control-flow body.

    Attributes:
        name: as in the model.
        nodes: its own, those of bodies not counted.
        inputs: tensors that are fed.
        outputs: tensors that are returned.
        extras: what the exported graph has besides.
        envelope: the model without its graph; all scopes share one.
        interface: the model's inputs and outputs as they are declared, by name; all scopes share
            one.
        taken_names: of all tensors and nodes; all scopes share one. See :func:`unique_name`.
    """

    name: str
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    extras: GraphExtras
    envelope: ModelProto
    interface: dict[str, ValueInfoProto]
    taken_names: set[str]

    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor that the graph or one of its own nodes mentions, by name."""


@dataclass
class NodeExtras:
    """What a node has besides the attributes of :class:`Node`."""

    doc_string: str = ""
    overload: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    attributes: list[AttributeProto] = field(default_factory=list)


@dataclass
class GraphExtras:
    """What a graph has besides the attributes of :class:`Graph`."""

    metadata: list[tuple[str, str]]
    annotations: list[TensorAnnotation]
    value_infos: dict[str, ValueInfoProto]
    initializer_metadata: dict[str, list[tuple[str, str]]]
    initializer_docs: dict[str, str]


@dataclass
class PassResult:
    """What a pass returns.

    Attributes:
        graph: the rewritten graph, valid as a model of its own.
        changes: one line per rewrite or refusal, for the compile report.
    """

    graph: Graph
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scope:
    """A graph or control-flow body.

    Attributes:
        graph: its nodes; tensors of outer scopes are the same objects there.
        closed: why passes leave it alone; empty where they may rewrite it.
    """

    graph: Graph
    closed: str


def scopes(graph: Graph, closed: str = "") -> Iterator[Scope]:
    """The graph, and below it every control-flow body.

    Bodies of If are open. Bodies of Loop and Scan are closed: what they compute at each iteration
    cannot be observed from outside.
    """
    yield Scope(graph, closed)
    for node in graph.nodes:
        for body in bodies(node):
            reason = "" if node.op == "If" else f"inside the body of {node.op} {node.name}"
            yield from scopes(body, closed or reason)


def bodies(node: Node) -> list[Graph]:
    """The control-flow bodies of a node."""
    return [value for value in node.attrs.values() if hasattr(value, "nodes")]


def paired_scopes(graph: Graph, proto: GraphProto) -> Iterator[tuple[Graph, GraphProto]]:
    """As :func:`scopes`, each with its proto, which has the same nodes in the same order."""
    yield graph, proto
    for node, stored in zip(graph.nodes, proto.node, strict=True):
        held = [a for a in stored.attribute if a.type == AttributeProto.GRAPH]
        for body, attribute in zip(bodies(node), held, strict=True):
            (inner,) = bodies_of(attribute)
            yield from paired_scopes(body, inner)


def is_standard(node: Node) -> bool:
    """Whether the operator is one of ONNX itself, not another domain's of the same name."""
    return node.domain in (None, "", "ai.onnx")


def is_constant(tensor: Tensor) -> TypeGuard[Constant]:
    """Whether the tensor's values are known at compile time."""
    return hasattr(type(tensor), "values")  # of the class: the tensor itself would load them


def values_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor that is known to be a constant."""
    if not is_constant(tensor):
        raise AssertionError(f"tensor '{tensor.name}' is not constant")
    return tensor.values


def shape_of(tensor: Tensor) -> Sequence[int | str | None]:
    """The lengths of a tensor whose rank is known to be known."""
    if tensor.shape is None:
        raise AssertionError(f"tensor '{tensor.name}' has no shape")
    return tensor.shape


def dtype_of(tensor: Tensor) -> np.dtype:
    """The element type of a tensor that is known to have one of numpy's."""
    if not isinstance(tensor.dtype, np.dtype):
        raise AssertionError(f"tensor '{tensor.name}' has element type {tensor.dtype}")
    return tensor.dtype


def may_be_float(tensor: Tensor) -> bool:
    """Whether a tensor holds floats, or its element type is not known."""
    return not isinstance(tensor.dtype, np.dtype) or tensor.dtype.kind == "f"


def type_name(tensor: Tensor) -> str:
    """The element type, for messages."""
    if tensor.dtype is None:
        return "unknown"
    if isinstance(tensor.dtype, int):
        return str(TensorProto.DataType.Name(tensor.dtype)).lower()
    return tensor.dtype.name


def rank_of(tensor: Tensor) -> int | None:
    """Number of dimensions, None where it is not known."""
    return None if tensor.shape is None else len(tensor.shape)


def optional_input(node: Node, position: int) -> Tensor | None:
    """An input that may be left out, None where it is."""
    if len(node.inputs) <= position or node.inputs[position].is_empty():
        return None
    return node.inputs[position]


def metadata(node: Node) -> dict[str, str]:
    """The node's ``metadata_props`` as a dict that may be written to."""
    return node.extras.metadata


def inherit(node: Node, source: Node) -> None:
    """Give ``node`` the metadata and doc string of the node that it stands for."""
    metadata(node).update(metadata(source))
    node.extras.doc_string = source.extras.doc_string


def opset_version(graph: Graph) -> int:
    """Version of the standard operators that the model imports."""
    imports = graph.envelope.opset_import
    return next(int(opset.version) for opset in imports if opset.domain in ("", "ai.onnx"))


def define_function(graph: Graph, function: FunctionProto) -> None:
    """Let nodes of the graph call ``function``, of :data:`ANN_DOMAIN`; defining it again is fine.

    Exported models hold only those of these functions that a node still calls.
    """
    known = {(f.domain, f.name) for f in graph.envelope.functions}
    if (function.domain, function.name) not in known:
        graph.envelope.functions.append(function)


def unique_name(graph: Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ... if a tensor or node of any scope already has that name."""
    name, count = wanted, 0
    while name in graph.taken_names:
        count += 1
        name = f"{wanted}_{count}"
    graph.taken_names.add(name)
    return name


def readers_behind(tensor: Tensor, goes_on: Callable[[Node], bool]) -> Iterator[Node]:
    """Nodes that read a tensor, or what readers that ``goes_on`` accepts make of it; each once."""
    seen: set[int] = set()
    pending = [tensor]
    while pending:
        for reader in pending.pop().outputs:
            if id(reader) not in seen:
                seen.add(id(reader))
                yield reader
                if goes_on(reader):
                    pending += reader.outputs


def redirect(readers: Iterable[Node], old: Tensor, new: Tensor) -> None:
    """Let these nodes read ``new`` in place of ``old``."""
    for reader in readers:
        for i, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[i] = new


def replace_everywhere(graph: Graph, old: Tensor, new: Tensor) -> None:
    """Let whatever reads or returns ``old`` take ``new`` instead, in bodies too.

    Args:
        graph: the scope that ``old`` belongs to.
        old: stays what its producer computes.
        new: a tensor that all these scopes see.
    """
    redirect(list(old.outputs), old, new)
    for scope in scopes(graph):
        for i, output in enumerate(scope.graph.outputs):
            if output is old:
                scope.graph.outputs[i] = new


def tidy(graph: Graph) -> None:
    """Drop nodes that no output needs, and sort the rest topologically, in bodies too.

    Args:
        graph: the main graph.

    Raises:
        AssertionError: a pass left a tensor that is read or returned, but not there.
    """
    for scope in reversed([scope.graph for scope in scopes(graph)]):
        _drop_unused(scope)
        _sort(scope)
    _require_made(graph, frozenset())


def _drop_unused(graph: Graph) -> None:
    own = {id(node) for node in graph.nodes}
    used: set[int] = set()
    waiting = list(graph.outputs)
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) in own and id(node) not in used:
                used.add(id(node))
                waiting += _reads(node)
    for node in graph.nodes:
        if id(node) not in used:
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) in used]


def _sort(graph: Graph) -> None:
    """Put each node behind those it reads from, else in the order they have.

    Not recursive: graphs are deeper than Python's limit.
    """
    own = {id(node) for node in graph.nodes}
    done: set[int] = set()
    ordered: list[Node] = []
    for root in graph.nodes:
        stack = [(root, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                ordered.append(node)
            elif id(node) not in done:
                done.add(id(node))
                stack.append((node, True))
                producers = [p for tensor in _reads(node) for p in tensor.inputs]
                stack += [(p, False) for p in reversed(producers) if id(p) in own]
    graph.nodes[:] = ordered


def _reads(node: Node) -> Iterator[Tensor]:
    """Every tensor that the node reads, in its bodies too."""
    yield from node.inputs
    for body in bodies(node):
        yield from body.outputs
        for inner in body.nodes:
            yield from _reads(inner)


def _require_made(graph: Graph, outer: frozenset[int]) -> None:
    """Raise where a tensor is neither given nor computed before; ``outer`` are those around."""

    def require(tensor: Tensor, what: str) -> None:
        if not (tensor.is_empty() or is_constant(tensor) or id(tensor) in made):
            raise AssertionError(f"tensor '{tensor.name}', which {what}, is not computed before")

    made = {*outer, *map(id, graph.inputs)}
    for node in graph.nodes:
        for tensor in node.inputs:
            require(tensor, f"{node.op} '{node.name}' reads")
        for body in bodies(node):
            _require_made(body, frozenset(made))
        made.update(map(id, node.outputs))
    for tensor in graph.outputs:
        require(tensor, f"graph '{graph.name}' returns")
