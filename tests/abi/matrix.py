"""The operator library on every release of ONNX Runtime, from 1.16 to the newest.

    python tests/abi/matrix.py [--releases 1.16.3 newest ...] [--cache FOLDER] [--write docs/abi.md]

Installs the releases, each into a folder of its own (about 1 GB in all; a second run uses them
again), and runs the same models on each: every operator and element type, on the C++ kernels and on
the function bodies. The expected outputs come from onnx's reference evaluator, so no release is
compared with itself. The exit code is 1 if a kernel differs or a process crashes anywhere, 77 if a
release cannot be installed, for which the last line is pip's reason. Linux.

The processes that run a release see nothing but it, its numpy and this file: models and expected
outputs are handed over as files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
OLDEST = (1, 16)
#: The first release built for numpy 2, and what older ones run with.
FIRST_WITH_NUMPY_2 = (1, 19)
NUMPY_1 = "1.26.4"
#: The table that adds shape inference, the one that adds computing in place.
SHAPES_SINCE, IN_PLACE_SINCE = 17, 18
MARKERS = ("<!-- matrix: written by tests/abi/matrix.py -->", "<!-- end of matrix -->")
SECONDS = 600
#: Exit code where a release cannot be installed.
CANNOT_RUN = 77


# What a child runs: only the standard library, numpy and onnxruntime.


def _session(path: Path, library: str | None, threads: int = 2, optimise: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(library)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _arrays(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names in the .npz file start with ``prefix``, without it."""
    with np.load(path.with_suffix(".npz")) as data:
        return {n.removeprefix(prefix): data[n] for n in data.files if n.startswith(prefix)}


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal in type, shape and every bit; one NaN is as good as another."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    unsigned = f"u{first.dtype.itemsize}"
    equal = np.ascontiguousarray(first).view(unsigned) == np.ascontiguousarray(second).view(
        unsigned
    )
    return bool(np.all(equal | (np.isnan(first) & np.isnan(second)).reshape(equal.shape)))


def _run_cases(folder: Path, library: str | None) -> tuple[int, dict[str, str]]:
    """Runs every case; how many runs there were, and what went wrong by run."""
    ways = {"unoptimised": (2, False), "optimised": (2, True)}
    if library:
        ways = {"1 thread": (1, False), "2 threads": (2, False), "optimised": (2, True)}
    wrong: dict[str, str] = {}
    runs = 0
    for path in sorted(folder.glob("case-*.onnx")):
        inputs, expected = _arrays(path, "in_"), _arrays(path, "out_")
        for way, (threads, optimise) in ways.items():
            runs += 1
            name = f"{path.stem.removeprefix('case-')}, {way}"
            try:
                outputs = _session(path, library, threads, optimise).run(list(expected), inputs)
            except Exception as error:  # the runtime has a class per status
                wrong[name] = str(error).splitlines()[0]
                continue
            differing = [
                output
                for (output, value), got in zip(expected.items(), outputs, strict=True)
                if not _same_bits(value, got)
            ]
            if differing:
                wrong[name] = f"differs: {', '.join(differing)}"
    return runs, wrong


def _run_refusals(folder: Path, library: str) -> tuple[int, dict[str, str]]:
    """Models that must fail with a message that names the node.

    They carry a body, which would run: that they fail shows that the kernel is preferred.
    """
    wrong: dict[str, str] = {}
    paths = sorted(folder.glob("refuse-*.onnx"))
    for path in paths:
        try:
            _session(path, library).run(None, _arrays(path, "in_"))
            wrong[path.stem] = "was not refused"
        except Exception as error:  # the runtime has a class per status
            if "'neuron'" not in str(error):
                wrong[path.stem] = f"the message does not name the node: {error}"
    return len(paths), wrong


def _memory(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    line = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line.group(1)) * 1024 if line else 0


def _runs_in_place(path: Path, library: str) -> bool:
    """Whether Transpose and a neuron behind it need one tensor of memory and not two."""
    session = _session(path, library)
    x = np.ones((4096, 4096), np.float32)
    before = _memory("VmRSS")
    session.run(None, {"X": x})
    return _memory("VmHWM") - before < 1.5 * x.nbytes


def _child(what: str, folder: Path, library: str) -> dict[str, Any]:
    """One part of the matrix on the onnxruntime at hand."""
    import onnxruntime as ort

    result: dict[str, Any] = {"release": ort.__version__, "numpy": np.__version__}
    if what == "features":
        shape = _session(folder / "shapes.onnx", library).get_outputs()[0].shape
        result["shapes"] = shape == [2, 3]
        result["in_place"] = _runs_in_place(folder / "in_place.onnx", library)
    elif what == "network":
        for name, used in (("kernels", library), ("bodies", None)):
            path = folder / "network.onnx"
            session = _session(path, used)
            names = [output.name for output in session.get_outputs()]
            outputs = session.run(None, _arrays(path, "in_"))
            np.savez(folder / f"{name}.npz", **dict(zip(names, outputs, strict=True)))
    else:
        used = library if what == "kernels" else None
        result["runs"], result["wrong"] = _run_cases(folder, used)
        if used:
            runs, wrong = _run_refusals(folder, used)
            result["runs"] += runs
            result["wrong"].update(wrong)
    return result


# The parent: models, expected outputs, releases, table.


def _neuron_inputs(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    """The values of all inputs but X."""
    step = rng.uniform(0.3, 2, shape)
    if name == "StaircaseFire":
        return {"scale": step, "table": np.round(np.linspace(-1, 2, 40), 2)}
    return {"scale" if name.endswith("ScaleFire") else "theta": step}


def _neuron_attributes(name: str, one_sided: bool) -> dict[str, Any]:
    """The attributes but axis and timesteps."""
    if name == "StaircaseFire":
        return {"density": 8.0, "start": -20.5}
    negative = 0 if one_sided else 3
    if name.endswith("ScaleFire"):
        return {"linear": 4, "top_pos": 6, "top_neg": negative}
    return {"levels_pos": 6, "levels_neg": negative}


def _x(shape: tuple[int, ...], dtype: type, rng: np.random.Generator) -> np.ndarray:
    """Values around the thresholds, behind special ones where there is room for them."""
    x: np.ndarray = np.asarray(rng.normal(0, 3, shape), dtype)
    info = np.finfo(dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, info.tiny, info.smallest_subnormal]
    special += [-info.smallest_subnormal, info.max, info.min]
    if x.size > 2 * len(special):
        x.reshape(-1)[: len(special)] = special
    return x


def _behind_transpose(model: onnx.ModelProto, keep: bool) -> None:
    """Puts a Transpose before the neuron, whose result may be overwritten unless it is kept."""
    from onnx import helper

    neuron = model.graph.node[0]
    neuron.input[0] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["X"], ["turned"], perm=[2, 1, 0]))
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[0].dim_value, sides[2].dim_value = sides[2].dim_value, sides[0].dim_value
    if keep:
        element_type = model.graph.output[0].type.tensor_type.elem_type
        model.graph.output.append(helper.make_tensor_value_info("turned", element_type, None))


def _save(model: onnx.ModelProto, path: Path, inputs: dict[str, np.ndarray]) -> None:
    """A model, its inputs, and what the reference evaluator makes of them."""
    from onnx.reference import ReferenceEvaluator

    path.write_bytes(model.SerializeToString())
    arrays = {f"in_{name}": value for name, value in inputs.items()}
    if path.stem.startswith("case-"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about NaN and overflow
            outputs = ReferenceEvaluator(model).run(None, inputs)
        for value, output in zip(model.graph.output, outputs, strict=True):
            arrays[f"out_{value.name}"] = np.asarray(output, inputs["X"].dtype)
    np.savez(path.with_suffix(".npz"), **arrays)


def _write_cases(folder: Path) -> None:
    """Models of one neuron: every operator, element type and layout; and those to refuse."""
    sys.path.insert(0, str(TESTS))
    from onnx import TensorProto
    from operators import NUMPY_TYPE, operator_model
    from snn_compile.runtime_ops.operators import OPERATORS

    layouts: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
        "one theta": ((4, 5, 7), (), 1),
        "theta per channel": ((4, 5, 33), (5,), 1),
        "theta per channel of the last axis": ((8, 3, 33), (33,), -1),
        "theta as it broadcasts": ((4, 5, 33), (5, 1), 1),
        "one side": ((4, 5, 33), (5, 1), 1),
        "empty": ((4, 3, 0), (3,), 1),
        "scalar": ((), (), 1),
        "many chunks": ((4, 3, 200, 50), (3,), 1),
        "theta at run time": ((4, 5, 7), (5,), 1),
        "intermediate": ((4, 5, 7), (5,), 1),
        "intermediate that is kept": ((4, 5, 7), (5,), 1),
    }
    for operator in OPERATORS:
        for element_type, dtype in NUMPY_TYPE.items():
            kind = f"{operator.name} {TensorProto.DataType.Name(element_type).lower()}"
            for layout, (shape, per_channel, axis) in layouts.items():
                rng = np.random.default_rng(0)
                one_sided = layout == "one side"
                form = {"aligned": len(per_channel) > 1, "signed": not one_sided}
                attributes = {"axis": axis, **_neuron_attributes(operator.name, one_sided)}
                if operator.name == "IntegrateFire" and shape:
                    attributes["timesteps"] = 4
                given = _neuron_inputs(operator.name, per_channel, rng)
                at_run_time = list(given) if layout == "theta at run time" else []
                model = operator_model(
                    operator,
                    given,
                    element_type=element_type,
                    shape=shape,  # known, or nothing is computed in place
                    at_run_time=at_run_time,
                    form=form,
                    **attributes,
                )
                inputs = {"X": _x(shape, dtype, rng)}
                if layout.startswith("intermediate"):
                    _behind_transpose(model, keep="kept" in layout)
                    inputs["X"] = np.ascontiguousarray(inputs["X"].T)
                inputs |= {name: np.asarray(given[name], dtype) for name in at_run_time}
                _save(model, folder / f"case-{kind}, {layout}.onnx", inputs)
            given = _neuron_inputs(operator.name, (), np.random.default_rng(0))
            first = next(iter(given))
            given[first] = 0.0
            for when in ([], [first]):
                model = operator_model(operator, given, element_type=element_type, at_run_time=when)
                inputs = {"X": np.ones((2, 3), dtype)} | {
                    name: np.zeros((), dtype) for name in when
                }
                name = f"refuse-{kind}, {first} = 0{' at run time' if when else ''}.onnx"
                _save(model, folder / name, inputs)
    _write_features(folder)


def _write_features(folder: Path) -> None:
    """Models that show which table the library uses: without a body, only it knows Y's shape."""
    from onnx import helper
    from operators import operator_model
    from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE

    model = operator_model(MULTI_THRESHOLD_FIRE, {"theta": 1.0}, shape=[2, 3], with_body=False)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (folder / "shapes.onnx").write_bytes(model.SerializeToString())

    # Memory is shared only where the runtime knows that both shapes are the same.
    model = operator_model(
        MULTI_THRESHOLD_FIRE, {"theta": 1.0}, shape=[4096, 4096], with_body=False
    )
    neuron = model.graph.node[0]
    neuron.input[0], neuron.output[0] = "turned", "fired"
    model.graph.node.insert(0, helper.make_node("Transpose", ["X"], ["turned"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("ReduceMax", ["fired"], ["Y"], keepdims=0))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (folder / "in_place.onnx").write_bytes(model.SerializeToString())


def _write_network(folder: Path) -> dict[str, np.ndarray]:
    """The bundled example, compiled, with the neurons' outputs shown; those outputs here."""
    from onnx import TensorProto, helper
    from snn_compile.compiler import compile_model
    from snn_compile.runtime_ops import library_path
    from snn_compile.runtime_ops.operators import neurons_of

    models = ROOT / "models"
    network = models / "digits_resnet_torchscript.onnx"
    model = compile_model(network, models / "digits_calibration.npz").model
    shown = {value.name for value in model.graph.output}
    for neuron in neurons_of(model):
        if neuron.output[0] not in shown:
            info = helper.make_tensor_value_info(neuron.output[0], TensorProto.FLOAT, None)
            model.graph.output.append(info)
    with np.load(network.with_name(f"{network.stem}_golden.npz")) as golden:
        inputs = {"image": golden["image"]}
    path = folder / "network.onnx"
    _save(model, path, inputs)
    names = [value.name for value in model.graph.output]
    outputs = _session(path, str(library_path())).run(None, inputs)
    return dict(zip(names, outputs, strict=True))


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        raise SystemExit(CANNOT_RUN)
    return done.stdout


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def _all_releases() -> list[str]:
    """The last patch of every minor release that has a wheel for this Python."""
    listing = _pip("index", "versions", "onnxruntime")
    line = re.search(r"Available versions: (.*)", listing)
    if line is None:
        raise SystemExit(f"pip lists no releases of onnxruntime: {listing}")
    last: dict[tuple[int, ...], tuple[int, ...]] = {}
    for text in line.group(1).split(", "):
        number = _number(text)
        if number[:2] >= OLDEST:
            last[number[:2]] = max(last.get(number[:2], ()), number)
    return [".".join(map(str, number)) for number in sorted(last.values())]


def _releases(names: list[str] | None) -> list[str]:
    """All releases, or those named; ``oldest`` and ``newest`` are the first and the last of all."""
    if names and not {"oldest", "newest"}.intersection(names):
        return names
    every = _all_releases()
    ends = {"oldest": every[0], "newest": every[-1]}
    return [ends.get(name, name) for name in names or every]


def _installed(package: str, version: str, cache: Path) -> Path:
    """The folder of a package without its dependencies, installed if need be."""
    folder = cache / f"{package}-{version}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Under its name only once it is complete.
        with tempfile.TemporaryDirectory(dir=cache) as name:
            half = Path(name) / "package"
            wanted = ("--no-deps", "--only-binary=:all:", f"{package}=={version}")
            _pip("install", "--target", str(half), *wanted)
            half.rename(folder)
    return folder


@dataclass
class Row:
    """What one release showed; ``problems`` make the matrix fail."""

    release: str
    numpy: str
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _by_reason(wrong: dict[str, str]) -> list[str]:
    """A line per reason: the first run that it concerns, and how many more."""
    reasons: dict[str, list[str]] = {}
    for name, reason in wrong.items():
        reasons.setdefault(reason, []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in reasons.items()
    ]


class Release:
    """One release of onnxruntime in folders of its own."""

    def __init__(self, release: str, cache: Path, folder: Path, library: str) -> None:
        number = _number(release)
        numpy = NUMPY_1 if number[:2] < FIRST_WITH_NUMPY_2 else np.__version__
        self.minor = number[1]
        self.row = Row(release, numpy)
        self._path = [_installed("onnxruntime", release, cache), _installed("numpy", numpy, cache)]
        self._folder, self._library = folder, library

    def fill(self, here: dict[str, np.ndarray]) -> Row:
        """All parts of the row; ``here`` are the network's outputs in this process."""
        self._features()
        self._kernels()
        self._bodies()
        self._network(here)
        return self.row

    def _run(self, what: str) -> dict[str, Any] | None:
        """The result of one part; None, and a problem, if the process ended without one."""
        # -S: nothing of the environment of this process is found.
        command = [
            sys.executable,
            "-S",
            __file__,
            "--child",
            what,
            str(self._folder),
            self._library,
        ]
        path = os.pathsep.join(map(str, self._path))
        try:
            done = subprocess.run(
                command,
                env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.row.problems.append(f"{what}: no end after {SECONDS} s")
            return None
        if done.returncode == 0:
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            assert (result["release"], result["numpy"]) == (self.row.release, self.row.numpy)
            return result
        how = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode < 0:
            how = f"crashed with {signal.Signals(-done.returncode).name}"
        self.row.problems.append(f"{what}: {how}")
        return None

    def _features(self) -> None:
        cells = self.row.cells
        cells["table"] = cells["in place"] = "FAIL"
        result = self._run("features")
        if result is None:
            return
        table = IN_PLACE_SINCE if result["in_place"] else SHAPES_SINCE if result["shapes"] else 16
        cells["table"] = str(table)
        cells["in place"] = "yes" if result["in_place"] else "no"
        if table != min(self.minor, IN_PLACE_SINCE):
            self.row.problems.append(f"features: uses table {table}")

    def _kernels(self) -> None:
        self.row.cells["kernels"] = "FAIL"
        if result := self._run("kernels"):
            wrong = result["wrong"]
            self.row.problems += _by_reason(wrong)
            good = result["runs"] - len(wrong)
            self.row.cells["kernels"] = f"{'FAIL: ' if wrong else ''}{good} of {result['runs']}"

    def _bodies(self) -> None:
        """What a release lacks for a body is no fault of the library: it is only said."""
        self.row.cells["bodies"] = "FAIL"
        if result := self._run("bodies"):
            wrong = result["wrong"]
            self.row.cells["bodies"] = f"{result['runs'] - len(wrong)} of {result['runs']}"
            self.row.notes += [f"body of {text}" for text in _by_reason(wrong)]

    def _network(self, here: dict[str, np.ndarray]) -> None:
        self.row.cells["network"] = "FAIL"
        if self._run("network") is None:
            return
        kernels = dict(np.load(self._folder / "kernels.npz"))
        bodies = dict(np.load(self._folder / "bodies.npz"))
        if not all(_same_bits(kernels[name], bodies[name]) for name in here):
            self.row.problems.append("network: kernels and bodies differ")
            return
        if all(_same_bits(kernels[name], here[name]) for name in here):
            self.row.cells["network"] = "same bits"
            return
        answer, *neurons = here
        if (kernels[answer].argmax(1) != here[answer].argmax(1)).any():
            self.row.problems.append("network: other classes")
            return
        flips = sum(np.count_nonzero(kernels[name] != here[name]) for name in neurons)
        levels = sum(here[name].size for name in neurons)
        self.row.cells["network"] = f"{flips} of {levels} levels flip"


def _table(rows: list[Row]) -> Iterator[str]:
    """The rows in Markdown, and what is to be said about them."""
    names = ["table", "kernels", "bodies", "in place", "network"]
    lines = [["onnxruntime", "numpy", *names]]
    lines += [[row.release, row.numpy, *(row.cells[name] for name in names)] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield f"| {' | '.join(cells)} |"
    said = [f"- {row.release}: {text}" for row in rows for text in row.problems + row.notes]
    if said:
        yield ""
        yield from said


def _write(path: Path, lines: list[str]) -> None:
    """Replaces what stands between the markers."""
    begin, end = MARKERS
    before, found, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{path} lacks the lines '{begin}' and '{end}'")
    path.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def main() -> None:
    """Print the table; exit with 1 if a release failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--releases",
        nargs="+",
        metavar="RELEASE",
        help="such as 1.16.3, oldest or newest; default: the last patch of every minor",
    )
    parser.add_argument("--cache", type=Path, default=ROOT / ".abi_cache")
    parser.add_argument("--write", type=Path, help="file whose table is replaced")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, folder, library = arguments.child
        print(json.dumps(_child(what, Path(folder), library)))
        return

    from snn_compile.runtime_ops import library_path

    cache = arguments.cache.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # All of them before one runs: a release that is not to be had hides no failure.
        releases = [
            Release(release, cache, folder, str(library_path()))
            for release in _releases(arguments.releases)
        ]
        _write_cases(folder)
        here = _write_network(folder)
        rows = []
        for release in releases:
            print(release.row.release, file=sys.stderr)
            rows.append(release.fill(here))
    lines = list(_table(rows))
    print("\n".join(lines))
    if arguments.write:
        _write(arguments.write, lines)
    if any(row.problems for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
