"""What is asked of one backend test model: the same outputs after the front end, and a clean end.

1. The installed runtime itself must give the stored outputs; otherwise nothing is asked.
2. load (upgrade) -> every pass of the front end -> save: the stored outputs at rtol 1e-3 and the
   case's own atol (1e-7 for nearly all), and those of the original model at 1e-5 + 1e-4 * |y|,
   both without graph optimisation; float16, whose last place is 1e-3 of the value, at 2e-3.
   Names, order, types and shapes of outputs are the same.
3. compile_model with the stored inputs as calibration data, or synthetic ones where those are
   refused: a valid model that runs on the stored inputs, or a refusal that the user is told.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from cases import Case, all_cases, out_of_scope
from onnx import ModelProto
from snn_compile import compiler
from snn_compile.compiler.errors import DataError, SnnCompileError
from snn_compile.compiler.front_end import FRONT_END, apply_passes
from snn_compile.compiler.model_io.upgrade import upgrade
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.steps import Steps
from snn_compile.compiler.targets import resolve
from snn_compile.passes.graph.surgeon import export_network, import_model

#: Outcomes that are failures of this project.
FAILURES = ("crash", "traceback", "wrong", "invalid")


@dataclass
class Outcome:
    """How one model ended.

    Attributes:
        name, kind: of the case.
        step: front end, or compile.
        outcome: same, compiled, refused, out of scope, runtime, or one of :data:`FAILURES`.
        detail: the reason, or the traceback.
    """

    name: str
    kind: str
    step: str
    outcome: str
    detail: str = ""


def check(case: Case, *, compile_too: bool) -> list[Outcome]:
    """Both steps of one model, as far as it gets."""

    def ended(outcome: str, detail: str = "", step: str = "front end") -> Outcome:
        return Outcome(case.name, case.kind, step, outcome, detail)

    reason = out_of_scope(case.model)
    if reason:
        return [ended("out of scope", reason)]
    try:
        before = _run(case.model, case)
        _compare(before, [outputs for _, outputs in case.data], case.rtol, case.atol)
    except Exception as error:  # the runtime's own limits; its exceptions have no common base
        return [ended("runtime", _runtime_reason(error))]

    outcomes = []
    try:
        after = _run(_front_end(case.model), case)
        _compare(after, [outputs for _, outputs in case.data], case.rtol, case.atol)
        _compare(after, before, 1e-4, 1e-5)
        outcomes.append(ended("same"))
    except SnnCompileError as error:
        outcomes.append(ended("refused", str(error)))
    except AssertionError as error:
        outcomes.append(ended("wrong", str(error)))
    except Exception:
        outcomes.append(ended("traceback", traceback.format_exc()))
    if compile_too:
        try:
            _check_compiled(case, _compile(case))
            outcomes.append(ended("compiled", step="compile"))
        except SnnCompileError as error:
            outcomes.append(ended("refused", str(error), "compile"))
        except AssertionError as error:
            outcomes.append(ended("invalid", str(error), "compile"))
        except Exception:
            outcomes.append(ended("traceback", traceback.format_exc(), "compile"))
    return outcomes


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _front_end(model: ModelProto) -> ModelProto:
    graph = import_model(upgrade(_copy(model)))
    graph = apply_passes(graph, FRONT_END, resolve(CompileOptions()), Steps())
    rewritten = export_network(graph).attached()
    # onnx itself calls one of its models, MeanVarianceNormalization, invalid.
    onnx.checker.check_model(rewritten, full_check=_is_valid(model))
    names = [value.name for value in model.graph.output]
    if [value.name for value in rewritten.graph.output] != names:
        raise AssertionError(f"outputs are no longer {names}")
    return rewritten


def _is_valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # native code raises several types
        return False
    return True


def _run(model: ModelProto, case: Case) -> list[list[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [list(session.run(None, feed)) for feed, _ in case.data]


def _compare(results: list[list[Any]], expected: list[list[Any]], rtol: float, atol: float) -> None:
    for outputs, wanted in zip(results, expected, strict=True):
        if len(outputs) != len(wanted):
            raise AssertionError(f"{len(outputs)} outputs instead of {len(wanted)}")
        for output, value in zip(outputs, wanted, strict=True):
            _compare_value(output, value, rtol, atol)


def _compare_value(output: Any, value: Any, rtol: float, atol: float) -> None:
    if isinstance(output, list):
        _compare([output], [list(value)], rtol, atol)
        return
    if output is None or value is None:
        if output is not value:
            raise AssertionError("an optional output is empty on one side only")
        return
    output, value = np.asarray(output), np.asarray(value)
    if output.dtype != value.dtype or output.shape != value.shape:
        raise AssertionError(
            f"{output.dtype}{list(output.shape)} instead of {value.dtype}{list(value.shape)}"
        )
    if output.dtype == np.float16:  # one unit in the last place is 1e-3 of the value
        rtol, atol = max(rtol, 2e-3), max(atol, 1e-5)
    if output.dtype.kind == "f":
        np.testing.assert_allclose(
            output.astype(np.float64), value.astype(np.float64), rtol=rtol, atol=atol
        )
    else:
        np.testing.assert_array_equal(output, value)


def _compile(case: Case) -> ModelProto:
    feed = case.data[0][0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.npz"
        np.savez(file, **feed)
        try:
            return compiler.compile_model(case.model, calibration=file).model
        except DataError:
            return compiler.compile_model(case.model).model


def _check_compiled(case: Case, compiled: ModelProto) -> None:
    onnx.checker.check_model(compiled, full_check=True)
    outputs = _run(compiled, case)
    for results, (_, expected) in zip(outputs, case.data, strict=True):
        for output, value in zip(results, expected, strict=True):
            if np.asarray(output).dtype != np.asarray(value).dtype:
                raise AssertionError("an output has another type")
            if np.shape(output) != np.shape(value):
                raise AssertionError(f"shape {np.shape(output)} instead of {np.shape(value)}")


def _runtime_reason(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return "gives other outputs than the stored ones"
    text = str(error)
    for pattern, reason in (
        ("NOT_IMPLEMENTED", "has no kernel for an operator or type"),
        (r"Unsupported model IR|is only guaranteed|under development", "too new for it"),
        (r"INVALID_ARGUMENT", "refuses the inputs or the model"),
        (r"INVALID_GRAPH|FAIL", "refuses the model"),
    ):
        if re.search(pattern, text):
            return reason
    return type(error).__name__


def work() -> None:
    """Check the cases named on stdin, one JSON line each; the parent notices when this dies."""
    names = json.loads(sys.stdin.readline())
    compile_too = json.loads(sys.stdin.readline())
    known = {case.name: case for case in all_cases()}
    for name in names:
        outcomes = check(known[name], compile_too=compile_too)
        sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    ort.set_default_logger_severity(4)
    work()
