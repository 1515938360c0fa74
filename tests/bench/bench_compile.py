"""What compiling costs: against onnxruntime's quantize_static, and as networks and samples grow.

    python tests/bench/bench_compile.py --data ../shared/data [--rounds 3] [--networks NAME,...]
    python tests/bench/bench_compile.py --growth [--rounds 3]

The first table has whole processes, the interpreter's start included: ``snn-compile`` with default
options beside ``quantize_static`` (QDQ, MinMax, the same samples one by one), taken in turn. Both
find their modules as bytecode, as installing writes it, whatever the environment says. Ratios
are of the clock, and of processor seconds, which a busy machine changes less, within a round; of
both the medians. Networks are those of ``shared_networks.py``, and those of the package onnx (its
"light" ones), which are compiled with synthetic samples and have no peer.

The second has generated networks, chains of 3 x 3 convolutions with Relu, in which one thing grows
at a time: depth, width, samples, levels N; and chains where each convolution reads what all before
it gave. Beside the seconds of compiling, without the interpreter's start, of the clock and of
processors, are those of the clock that the ANN takes for all samples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from shared_networks import NETWORKS, absent, calibration_samples, load_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
#: Samples of these networks, where they are not those that the accuracy is measured with.
_SAMPLES = {"minilm_l6": 64}
_IMAGE = 16

#: The peer, in a process of its own.
_QUANTIZE = """
import sys
import numpy as np, onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self, path, names):
        with np.load(path) as archive:
            feed = {name: archive[name] for name in names}
        count = len(feed[names[0]])
        self.feeds = iter([{k: v[i : i + 1] for k, v in feed.items()} for i in range(count)])
    def get_next(self):
        return next(self.feeds, None)
model, samples, output = sys.argv[1:]
names = [value.name for value in onnx.load(model).graph.input]
quantize_static(model, output, Reader(samples, names), quant_format=QuantFormat.QDQ)
"""

#: One compilation without the start, and the ANN alone on the same samples.
_COMPILE = """
import json, sys, time
from snn_compile.compiler import CompileOptions, compile_model
model, samples, levels = sys.argv[1:]
compile_model(model, samples, CompileOptions(levels=int(levels)))  # what is imported late
begin = time.perf_counter(), time.process_time()
report = compile_model(model, samples, CompileOptions(levels=int(levels))).report
ends = time.perf_counter(), time.process_time()
ann = next(step.seconds for step in report.passes if step.name == "reference")
print(json.dumps([ends[0] - begin[0], ends[1] - begin[1], ann]))
"""


@dataclass(frozen=True)
class Spent:
    """What a process took: seconds of the clock and of processors, and bytes held at most."""

    seconds: float
    cpu: float
    peak: int


def run(command: list[str], environment: dict[str, str]) -> Spent:
    """Run a process to its end.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as text:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=text, stderr=text, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            text.seek(0)
            raise RuntimeError(text.read().decode()[-2000:])
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def against_the_peer(data: Path | None, rounds: int, wanted: list[str]) -> Iterator[str]:
    """The first table, line by line."""
    yield "| network | samples | snn-compile | quantize_static | ratio | ratio, processors | peak |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        environment = os.environ | bytecode
        (folder / "chain.onnx").write_bytes(chain(2, 8).SerializeToString())
        first = ["-m", "snn_compile", str(folder / "chain.onnx"), "-o", str(folder / "out.onnx")]
        for writing in (first, ["-c", "import onnxruntime.quantization"]):
            run([sys.executable, *writing], environment)
        for title, count, model, samples in _networks(data, folder, wanted):
            output = str(folder / "out.onnx")
            compiling = [sys.executable, "-m", "snn_compile", str(model), "-o", output]
            peer = None
            if samples is not None:
                compiling += ["--calibration", str(samples)]
                peer = [sys.executable, "-c", _QUANTIZE, str(model), str(samples), output]
            pairs = [
                (run(peer, environment) if peer else None, run(compiling, environment))
                for _ in range(rounds)
            ]
            ours = median(our.seconds for _, our in pairs)
            peak = median(our.peak for _, our in pairs) / 1e6
            theirs, ratio, cpu = "", "", ""
            both = [(their, our) for their, our in pairs if their is not None]
            if both:
                theirs = f"{median(their.seconds for their, _ in both):.1f} s"
                ratio = f"{median(our.seconds / their.seconds for their, our in both):.2f}"
                cpu = f"{median(our.cpu / their.cpu for their, our in both):.2f}"
            cells = [title, str(count), f"{ours:.1f} s", theirs, ratio, cpu, f"{peak:.0f} MB"]
            yield f"| {' | '.join(cells)} |"


def _networks(
    data: Path | None, folder: Path, wanted: list[str]
) -> Iterator[tuple[str, int, Path, Path | None]]:
    """Title, number of samples, file, and file of the samples, None where they are synthetic."""
    for name, network in NETWORKS.items():
        if data is None or (wanted and name not in wanted) or absent(network, data) is not None:
            continue
        count = _SAMPLES.get(name, network.calibration)
        model, samples = folder / f"{name}.onnx", folder / f"{name}.npz"
        model.write_bytes(load_model(network, data).SerializeToString())
        np.savez(samples, **calibration_samples(network, data, count, seed=0))
        yield network.title, count, model, samples
    for path in sorted(LIGHT.glob("light_*.onnx")):
        name = path.stem.removeprefix("light_")
        if not wanted or name in wanted:
            yield f"{name}, synthetic", 64, path, None


def chain(depth: int, width: int, joined: bool = False) -> ModelProto:
    """Convolutions with Relu; ``joined``: each reads what all before it gave."""
    rng = np.random.default_rng(0)
    nodes, constants, given, channels = [], [], ["x"], [width]
    for i in range(depth):
        read, reads = given[-1], channels[-1]
        if joined and i:
            read, reads = f"c{i}", sum(channels)
            nodes.append(helper.make_node("Concat", given, [read], axis=1))
        values = rng.standard_normal((width, reads, 3, 3)) * (2 / (9 * reads)) ** 0.5
        constants.append(
            helper.make_tensor(f"w{i}", TensorProto.FLOAT, values.shape, values.reshape(-1))
        )
        nodes.append(helper.make_node("Conv", [read, f"w{i}"], [f"a{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"]))
        given.append(f"r{i}")
        channels.append(width)
    shape = ["batch", width, _IMAGE, _IMAGE]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", given[-1])
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


#: What grows: its name, its values, and what they make of depth, width, samples, levels and joins.
GROWTH: list[tuple[str, tuple[int, ...], Callable[[int], tuple[int, int, int, int, bool]]]] = [
    ("depth", (4, 8, 16, 32, 64), lambda n: (n, 16, 64, 32, False)),
    ("depth, all joined", (4, 8, 16, 32), lambda n: (n, 8, 64, 32, True)),
    ("width", (8, 16, 32, 64, 128), lambda n: (8, n, 64, 32, False)),
    ("samples", (32, 64, 128, 256, 512), lambda n: (8, 32, n, 32, False)),
    ("N", (4, 16, 32, 64, 128, 255), lambda n: (8, 32, 64, n, False)),
]


def growth(rounds: int, wanted: list[str]) -> Iterator[str]:
    """The second table, line by line."""
    yield "| what grows | | compiling | processors | the ANN on all samples |"
    yield "| --- | --- | --- | --- | --- |"
    for what, values, shape in GROWTH:
        for value in values if not wanted or what in wanted else ():
            depth, width, count, levels, joined = shape(value)
            with tempfile.TemporaryDirectory() as name:
                model, samples = Path(name) / "model.onnx", Path(name) / "samples.npy"
                model.write_bytes(chain(depth, width, joined).SerializeToString())
                rng = np.random.default_rng(1)
                np.save(samples, rng.standard_normal((count, width, _IMAGE, _IMAGE), np.float32))
                command = [sys.executable, "-c", _COMPILE, str(model), str(samples), str(levels)]
                found = [
                    json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                    for _ in range(rounds)
                ]
            seconds, cpu, ann = (median(column) for column in zip(*found, strict=True))
            yield f"| {what} | {value} | {seconds:.2f} s | {cpu:.2f} s | {ann:.2f} s |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="networks and samples that are not bundled")
    parser.add_argument("--networks", default="", help="only these, with commas")
    parser.add_argument("--growth", action="store_true", help="the second table")
    parser.add_argument("--only", default="", help="of the second table, with semicolons")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.growth:
        lines = growth(arguments.rounds, [one for one in arguments.only.split(";") if one])
    else:
        wanted = [one for one in arguments.networks.split(",") if one]
        lines = against_the_peer(arguments.data, arguments.rounds, wanted)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
