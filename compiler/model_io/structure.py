"""Refuse models that native code of onnx or onnxruntime may crash on, or that we must not compile.

In Python alone, in one walk over the model, before anything else looks at it:

1. Text is UTF-8, and nothing is nested deeper than protobuf itself reads.
2. The IR version and the standard opset are ones that the installed onnx knows; a domain is
   imported in one version.
3. Every operator is a function of the model, an operator of ONNX at the imported version, one that
   the runtime has there (:mod:`.runtime_operators`), or of a domain that the runtime has (it
   decides later whether it knows the operator).
4. In every graph each tensor is made once, before it is read, and has a name that no enclosing
   graph uses. Outputs exist. What a graph of a node (If, Loop, Scan, ...) may read: its own tensors
   and those of the enclosing graphs made before the node.
5. Functions do not call themselves, read only their own tensors, and stay within a bound when all
   calls are written out.
6. Tensors, types and attributes are what they declare (:mod:`.protos`).
7. Inputs are tensors of numbers, of known rank, that memory can hold. There is an output.
8. No constant integer is divided by a constant where processors trap: the smallest one by -1.

:func:`check_source` also refuses what is not a float network to compile: models with our operators,
quantised models, and those with training information.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    numpy_helper,
)

from ...passes.analysis.operators import is_quantised
from ...passes.graph.protos import bodies_of, nodes_below, reads
from ...runtime_ops.definition import DOMAIN
from ..errors import ModelError
from .protos import (
    check_attribute,
    check_sparse,
    check_tensor,
    check_type,
    element_bits,
    invalid,
    is_utf8,
)
from .runtime_operators import is_run

#: Messages within messages; protobuf reads no more than this.
MAX_NESTING = 100
#: Nodes of the model with every function call written out, and calls within calls.
MAX_NODES = 200_000
MAX_CALLS = 100
#: Bytes of one input, or of one sample where the batch is dynamic.
MAX_INPUT_BYTES = 1 << 32

_EXPORT = "export the model again"
#: Domains without schemas in onnx whose operators onnxruntime brings along, or our library.
_RUNTIME_DOMAINS = {"com.microsoft", DOMAIN}
#: Domains of operators that onnxruntime's optimisation writes for its own kernels.
_LAYOUT_DOMAINS = ("com.microsoft.", "com.ms.")
#: Domains of onnx, whose operators have schemas.
_ONNX_DOMAINS = {"", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"}


def check_source(model: ModelProto) -> None:
    """Check a network to compile: :func:`check_structure`, and that it is a float network.

    Raises:
        ModelError: what was found, where, and what to do.
    """
    check_structure(model)
    for node in _all_nodes(model):
        if _is_ours(node.domain):
            raise ModelError(
                f"the model already contains {DOMAIN} operators ({_describe(node)}); "
                "compile the original network"
            )
        if is_quantised(node.op_type):
            raise ModelError(
                f"the model is already quantised ({_describe(node)}); compile the float network"
            )
    for function in model.functions:
        if _is_ours(function.domain):
            raise ModelError(
                f"the model already contains {DOMAIN} operators (function {function.name}); "
                "compile the original network"
            )
    if model.training_info:
        raise ModelError("the model holds training information; export it for inference")


def check_structure(model: ModelProto) -> None:
    """Check any model, compiled ones included. Takes time linear in its size.

    Raises:
        ModelError: what was found, where, and what to do.
    """
    _check_text(model, MAX_NESTING)
    imports = _check_imports(model.opset_import, "the model")
    if model.ir_version > onnx.IR_VERSION or model.ir_version < 1:
        raise ModelError(
            f"IR version {model.ir_version} is not one that onnx {onnx.__version__} knows "
            f"(1 to {onnx.IR_VERSION}); update onnx or export with an older version"
        )
    functions = _function_table(model)
    context = _Context(imports, functions, "")
    _check_graph(model.graph, context, [])
    if not model.graph.output:
        raise invalid(f"the model has no outputs; {_EXPORT}")
    for value in model.graph.input:
        _check_input(value, {tensor.name for tensor in model.graph.initializer})
    for info in model.training_info:
        for graph in (info.initialization, info.algorithm):
            _check_graph(graph, _Context(imports, functions, " in the training information"), [])
    for function in model.functions:
        _check_function(function, functions)
    _check_calls(model, functions)


Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Context:
    """What holds for a graph and the graphs inside: imported versions, functions, where we are."""

    imports: dict[str, int]
    functions: dict[Key, FunctionProto]
    place: str
    in_function: bool = False


@dataclass
class _Scope:
    """The tensors of one graph.

    Attributes:
        made: those visible so far.
        maker: where each of them is made, nodes further down included (-1: not by a node).
        nodes: the graph's nodes.
        tensors: its constants by name.
    """

    made: set[str] = field(default_factory=set)
    maker: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)


def _is_ours(domain: str) -> bool:
    return domain == DOMAIN or domain.startswith(DOMAIN + ".")


def _domain(name: str) -> str:
    """The standard domain has two spellings."""
    return "" if name == "ai.onnx" else name


def _describe(node: NodeProto) -> str:
    """A node as messages name it."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} '{name}'" if name else node.op_type


# Text and nesting -------------------------------------------------------------------------------


def _check_text(message: Any, depth: int) -> None:
    """Rule 1. Python gives strings that are not UTF-8 as bytes."""
    if depth == 0:
        raise ModelError(f"the model is nested deeper than {MAX_NESTING} levels; {_EXPORT}")
    if isinstance(message, TensorProto):  # not its data
        strings = [message.name, message.doc_string]
        children = [*message.external_data, *message.metadata_props]
        if any(not is_utf8(text) for text in message.string_data):
            raise invalid(f"tensor '{message.name!r}' holds text that is not UTF-8; {_EXPORT}")
    else:
        strings, children = [], []
        for descriptor, value in message.ListFields():
            if descriptor.type == descriptor.TYPE_STRING:
                strings += value if descriptor.is_repeated else [value]
            elif descriptor.type == descriptor.TYPE_MESSAGE:
                children += value if descriptor.is_repeated else [value]
    for text in strings:
        if isinstance(text, bytes):
            raise invalid(f"it holds text that is not UTF-8 ({text[:40]!r}); the file is damaged")
    for child in children:
        _check_text(child, depth - 1)


# Versions and operators -------------------------------------------------------------------------


def _check_imports(opsets: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    """Rule 2. Versions by domain."""
    imports: dict[str, int] = {}
    for opset in opsets:
        domain = _domain(opset.domain)
        if imports.setdefault(domain, opset.version) != opset.version:
            raise invalid(f"{where} imports two versions of the domain '{domain}'; {_EXPORT}")
    newest = defs.onnx_opset_version()
    version = imports.get("")
    if version is not None and not 1 <= version <= newest:
        raise ModelError(
            f"{where} uses opset {version}, onnx {onnx.__version__} knows 1 to {newest}; "
            "update onnx or export with an older opset"
        )
    return imports


def _check_operator(node: NodeProto, context: _Context) -> None:
    """Rule 3."""
    domain, where = _domain(node.domain), _describe(node) + context.place
    if (domain, node.op_type, node.overload) in context.functions:
        return
    version = context.imports.get(domain)
    if domain == "" and version is not None and is_run(node.op_type, version):
        return
    if not defs.has(node.op_type, domain) and domain not in _RUNTIME_DOMAINS:
        if domain in _ONNX_DOMAINS:
            raise ModelError(
                f"{where} is an operator that onnx {onnx.__version__} does not know; update onnx, "
                "or export the model without it"
            )
        if domain.startswith(_LAYOUT_DOMAINS):
            raise ModelError(
                f"{where} is of the domain '{domain}', which onnxruntime makes for the machine "
                "that it optimises on; export the model without graph optimisation"
            )
        raise ModelError(
            f"{where} is an operator of the domain '{domain}', which neither onnx nor onnxruntime "
            "has and the model does not define; export the model without it or with its functions"
        )
    if version is None:
        if domain in _RUNTIME_DOMAINS:  # exporters forget it, the runtime does not need it
            return
        raise invalid(f"{where}: the domain '{domain}' is not imported; {_EXPORT}")
    if domain in _RUNTIME_DOMAINS:
        return
    try:
        deprecated = defs.get_schema(node.op_type, version, domain).deprecated
    except defs.SchemaError:
        deprecated = True
    if deprecated:
        raise invalid(f"{where} is not an operator of version {version}; {_EXPORT}")


# Graphs -----------------------------------------------------------------------------------------


def _check_graph(graph: GraphProto, context: _Context, outer: list[_Scope]) -> None:
    """Rules 3, 4 and 6 for a graph and the graphs inside it."""
    scope = _Scope(nodes=list(graph.node))
    place = context.place

    def make(name: str, what: str, position: int = -1) -> None:
        if not name:
            raise invalid(f"{what}{place} has no name; {_EXPORT}")
        if name in scope.maker or any(name in other.maker for other in outer):
            raise invalid(f"{what}{place}: another tensor is named '{name}' too; {_EXPORT}")
        scope.maker[name] = position

    for value in graph.input:
        make(value.name, f"input '{value.name}'")
    inputs = set(scope.maker)
    for tensor in graph.initializer:
        check_tensor(tensor, f"initializer '{tensor.name}'{place}")
        if tensor.name not in inputs:  # before IR version 4 an initializer was an input as well
            make(tensor.name, f"initializer '{tensor.name}'")
        inputs.discard(tensor.name)
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        check_sparse(sparse, f"sparse initializer '{name}'{place}")
        if name not in inputs:
            make(name, f"sparse initializer '{name}'")
        inputs.discard(name)
    scope.tensors = {tensor.name: tensor for tensor in graph.initializer}
    scope.made.update(scope.maker)
    for position, node in enumerate(graph.node):
        for output in node.output:
            if output:
                make(output, _describe(node), position)
    for values, what in (
        (graph.input, "input"),
        (graph.output, "output"),
        (graph.value_info, "tensor"),
    ):
        for value in values:
            check_type(value.type, f"{what} '{value.name}'{place}")
    _check_nodes(scope, context, outer)
    _check_outputs(graph, scope, context, outer)


def _check_nodes(scope: _Scope, context: _Context, outer: list[_Scope]) -> None:
    for node in scope.nodes:
        where = _describe(node) + context.place
        if not node.op_type:
            raise invalid(f"{where}: a node has no operator type; {_EXPORT}")
        for name in node.input:
            _require_made(name, node, where, scope, outer)
        _check_operator(node, context)
        names = set()
        for attribute in node.attribute:
            check_attribute(attribute, where, in_function=context.in_function)
            if attribute.name in names:
                raise invalid(f"{where} has two attributes '{attribute.name}'; {_EXPORT}")
            names.add(attribute.name)
            for graph in bodies_of(attribute):
                place = f" in {attribute.name} of {where}"
                inner = _Context(context.imports, context.functions, place, context.in_function)
                _check_graph(graph, inner, [*outer, scope])
        scope.made.update(output for output in node.output if output)
        if node.op_type == "Constant" and _domain(node.domain) == "" and node.output:
            scope.tensors.update((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
        if node.op_type in ("Div", "Mod") and _domain(node.domain) == "":
            _check_division(node, where, [scope, *outer])


def _check_division(node: NodeProto, where: str, scopes: list[_Scope]) -> None:
    """Rule 8. Division by zero the runtime finds itself."""
    operands = []
    for name in node.input:
        tensor = next((s.tensors[name] for s in scopes if name in s.tensors), None)
        if tensor is None or tensor.data_type not in (TensorProto.INT32, TensorProto.INT64):
            return
        if tensor.data_location == TensorProto.EXTERNAL:
            return
        operands.append(numpy_helper.to_array(tensor))
    smallest = [np.iinfo(values.dtype).min in values for values in operands[:1]]
    if any(smallest) and any(-1 in values for values in operands[1:]):
        raise ModelError(f"{where} divides the smallest integer by -1, which overflows; {_EXPORT}")


def _require_made(
    name: str, node: NodeProto, where: str, scope: _Scope, outer: list[_Scope]
) -> None:
    if not name or name in scope.made or any(name in other.made for other in outer):
        return
    for candidate in [scope, *outer]:
        if name in candidate.maker:
            maker = candidate.nodes[candidate.maker[name]]
            why = f"which {_describe(maker)} makes only later; sort the nodes topologically"
            if candidate is scope and _reaches(scope, node, maker):
                why = f"which {_describe(maker)} makes from its result: a cycle; {_EXPORT}"
            raise invalid(f"{where} reads '{name}', {why}")
    raise invalid(f"{where} reads '{name}', which nothing makes; {_EXPORT}")


def _reaches(scope: _Scope, start: NodeProto, goal: NodeProto) -> bool:
    """Whether ``goal`` reads, directly or not, what ``start`` makes."""
    pending, seen = [goal], set()
    while pending:
        node = pending.pop()
        for name in reads(node):
            position = scope.maker.get(name, -1)
            if position < 0 or position in seen:
                continue
            if scope.nodes[position] is start:
                return True
            seen.add(position)
            pending.append(scope.nodes[position])
    return goal is start


def _check_outputs(
    graph: GraphProto, scope: _Scope, context: _Context, outer: list[_Scope]
) -> None:
    seen = set()
    for value in graph.output:
        if value.name in seen:
            raise invalid(f"output '{value.name}'{context.place} is listed twice; {_EXPORT}")
        seen.add(value.name)
        if value.name not in scope.made and not any(value.name in other.made for other in outer):
            raise invalid(
                f"output '{value.name}'{context.place} is not made by anything; {_EXPORT}"
            )


def _check_input(value: onnx.ValueInfoProto, initialised: set[str]) -> None:
    """Rule 7, for the inputs of the model itself."""
    where = f"input '{value.name}'"
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise invalid(f"{where} has no type; {_EXPORT}")
    if kind != "tensor_type":
        kind = kind.removesuffix("_type")
        raise ModelError(f"{where} is of type {kind}; only tensors can be fed, {_EXPORT} with them")
    tensor = value.type.tensor_type
    if tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        what = "text" if tensor.elem_type == TensorProto.STRING else "elements of unknown type"
        raise ModelError(
            f"{where} holds {what}; export only the part of the network that reads numbers"
        )
    if not tensor.HasField("shape") and value.name not in initialised:
        raise ModelError(f"{where} has no shape; export it with a known number of dimensions")
    size = element_bits(tensor.elem_type) / 8
    for dim in tensor.shape.dim:
        size *= dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else 1
    if size > MAX_INPUT_BYTES and value.name not in initialised:
        raise ModelError(
            f"{where} takes {size / 2**30:.3g} GiB, more than {MAX_INPUT_BYTES >> 30} are not "
            "supported; export with smaller or dynamic dimensions"
        )


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from nodes_below(model.graph)
    for function in model.functions:
        yield from nodes_below(function)


# Functions --------------------------------------------------------------------------------------


def _key(item: NodeProto | FunctionProto, name: str) -> Key:
    return _domain(item.domain), name, item.overload


def _function_table(model: ModelProto) -> dict[Key, FunctionProto]:
    functions: dict[Key, FunctionProto] = {}
    for function in model.functions:
        key = _key(function, function.name)
        if not function.name or key in functions:
            raise invalid(f"two functions are named '{function.name}', or one is not; {_EXPORT}")
        if key[0] in _ONNX_DOMAINS:
            raise ModelError(
                f"function '{function.name}' claims to be an operator of ONNX itself; "
                "export it in a domain of its own"
            )
        functions[key] = function
    return functions


def _check_function(function: FunctionProto, functions: dict[Key, FunctionProto]) -> None:
    """Rule 5, but for calls: a function is a graph that sees nothing of the model."""
    place = f" in function '{function.name}'"
    imports = _check_imports(function.opset_import, f"function '{function.name}'")
    # A graph of the same nodes would be a copy of all its tensors; the parts will do.
    scope = _Scope(nodes=list(function.node))
    for name in function.input:
        if not name or name in scope.maker:
            raise invalid(f"input '{name}'{place} has no name of its own; {_EXPORT}")
        scope.maker[name] = -1
    scope.made.update(scope.maker)
    for position, node in enumerate(function.node):
        for output in filter(None, node.output):
            if output in scope.maker:
                raise invalid(
                    f"{_describe(node)}{place}: another tensor is named '{output}' too; {_EXPORT}"
                )
            scope.maker[output] = position
    for value in function.value_info:
        check_type(value.type, f"tensor '{value.name}'{place}")
    for attribute in function.attribute_proto:
        check_attribute(attribute, f"function '{function.name}'", in_function=True)
    _check_nodes(scope, _Context(imports, functions, place, in_function=True), [])
    if not function.output or not scope.made.issuperset(function.output):
        raise invalid(f"function '{function.name}' does not make its outputs; {_EXPORT}")


def _check_calls(model: ModelProto, functions: dict[Key, FunctionProto]) -> None:
    """Rule 5, calls: no recursion, and a bound on the model with all of them written out."""
    sizes: dict[Key, int] = {}

    def size(proto: GraphProto | FunctionProto, chain: tuple[Key, ...]) -> int:
        total = 0
        for node in nodes_below(proto):
            total += 1
            key = _key(node, node.op_type)
            if key not in functions:
                continue
            if key in chain:
                raise invalid(f"function '{node.op_type}' calls itself; {_EXPORT}")
            if len(chain) >= MAX_CALLS:
                raise ModelError(f"functions call each other {MAX_CALLS} deep; {_EXPORT} inlined")
            if key not in sizes:
                sizes[key] = size(functions[key], (*chain, key))
            total += sizes[key]
        return total

    for key, function in functions.items():  # uncalled ones too: native code looks at them
        sizes.setdefault(key, size(function, (key,)))
    if size(model.graph, ()) > MAX_NODES:
        raise ModelError(
            f"with its functions written out the model has more than {MAX_NODES} nodes; {_EXPORT} "
            "without functions"
        )
