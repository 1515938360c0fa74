"""The models of the onnx package's backend tests, with their stored inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TypeProto, ValueInfoProto
from onnx.backend.test.loader import load_model_tests
from onnx.numpy_helper import to_array

_FLOATS = {"float", "double", "float16"}
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMBERS = _FLOATS | _INTEGERS | {"bool"}


@dataclass
class Case:
    """One model.

    Attributes:
        name: unique.
        kind: node, simple, pytorch-converted, pytorch-operator or light.
        model: as stored.
        data: pairs of a feed and the outputs that belong to it.
        rtol, atol: how near a runtime must come.
    """

    name: str
    kind: str
    model: ModelProto
    data: list[tuple[dict[str, Any], list[Any]]]
    rtol: float
    atol: float


def all_cases() -> list[Case]:
    """Every case of the installed onnx, sorted by name."""
    return sorted([*_node_cases(), *_stored_cases()], key=lambda case: case.name)


def out_of_scope(model: ModelProto) -> str | None:
    """Why a model is not for this compiler: it takes no float tensor, or other things than numbers.

    Weights that IR 3 lists as inputs count as inputs; they are numbers in every model.
    """
    kinds = [_kind(value) for value in model.graph.input]
    if not kinds:
        return "no inputs"
    for kind in kinds:
        if kind not in _NUMBERS:
            return f"input of type {kind}"
    if not _FLOATS & set(kinds):
        return "no float input"
    return None


def _kind(value: ValueInfoProto) -> str:
    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        return str(which).removesuffix("_type")
    return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()


def _node_cases() -> Iterator[Case]:
    # Generated when asked for; some of the generators overflow on purpose.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None):
            names = [value.name for value in case.model.graph.input]
            data = [
                (dict(zip(names, map(_plain, inputs), strict=True)), list(map(_plain, outputs)))
                for inputs, outputs in case.data_sets
            ]
            yield Case(case.name, "node", case.model, data, case.rtol, case.atol)


def _plain(value: Any) -> Any:
    """Values as the runtime takes and returns them: some cases hold scalars, or tensors as read."""
    if isinstance(value, onnx.TensorProto):
        return to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _stored_cases() -> Iterator[Case]:
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            path = Path(case.model_dir or "")
            model = onnx.load(path / "model.onnx")
            folders = sorted(path.glob("test_data_set_*"))
            data = [_read_folder(model, folder) for folder in folders]
            yield Case(case.name, kind, model, data, case.rtol, case.atol)
    light = Path(onnx.__file__).parent / "backend/test/data/light"
    for file in sorted(light.glob("*.onnx")):
        yield _light_case(file)


def _light_case(file: Path) -> Case:
    """A network whose weights are all the same; the test suite feeds it 0, 1/n, 2/n, ..."""
    model = onnx.load(file)
    initializers = {tensor.name for tensor in model.graph.initializer}
    value = next(value for value in model.graph.input if value.name not in initializers)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    feed = {value.name: (np.arange(count).reshape(shape) / count).astype(np.float32)}
    expected = to_array(onnx.load_tensor(file.with_name(f"{file.stem}_output_0.pb")))
    return Case(file.stem, "light", model, [(feed, [expected])], 1e-3, 1e-7)


def _read_folder(model: ModelProto, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Inputs without a file are weights, which IR 3 lists as inputs."""
    files = ((folder / f"input_{i}.pb", value) for i, value in enumerate(model.graph.input))
    feed = {value.name: _read(file, value.type) for file, value in files if file.is_file()}
    outputs = [
        _read(folder / f"output_{i}.pb", value.type) for i, value in enumerate(model.graph.output)
    ]
    return feed, outputs


def _read(file: Path, kind: TypeProto) -> Any:
    content = file.read_bytes()
    if kind.HasField("sequence_type"):
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(content)
        return onnx.numpy_helper.to_list(sequence)
    if kind.HasField("optional_type"):
        optional = onnx.OptionalProto()
        optional.ParseFromString(content)
        return onnx.numpy_helper.to_optional(optional)
    return to_array(onnx.load_tensor_from_string(content))
