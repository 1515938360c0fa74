"""Peak memory of compiling a network of a given size, against that size.

    python tests/bench/bench_memory.py --megabytes 90
    python tests/bench/bench_memory.py --megabytes 2400 --width 4096 --external
    python tests/bench/bench_memory.py --megabytes 4 --width 128 --samples 32 512 --memory 0

The network is a chain of MatMul and Relu with random weights; it and its result are written to a
temporary folder. With several numbers of samples there is a line for each; ``--memory`` is that of
the compiler: samples fill memory only up to it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper


def write_network(
    folder: Path, megabytes: float, width: int, *, external: bool, samples: int
) -> Path:
    """A network of about this size (10^6 bytes), and so many samples for it."""
    rng = np.random.default_rng(0)
    count = max(round(megabytes * 1e6 / (4 * width**2)), 1)
    nodes, initializers = [], []
    with (folder / "weights.bin").open("wb") as stream:
        for i in range(count):
            values = rng.standard_normal((width, width), np.float32) / np.float32(0.7 * width**0.5)
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=values.shape)
            if external:
                place = {
                    "location": "weights.bin",
                    "offset": stream.tell(),
                    "length": values.nbytes,
                }
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                stream.write(values.data)
            else:
                tensor.raw_data = values.tobytes()
            initializers.append(tensor)
            before = f"r{i - 1}" if i else "x"
            nodes.append(helper.make_node("MatMul", [before, f"w{i}"], [f"a{i}"], f"matmul_{i}"))
            nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"], f"relu_{i}"))
    values_in = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    values_out = helper.make_tensor_value_info(f"r{count - 1}", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "chain", [values_in], [values_out], initializers)
    opset = helper.make_opsetid("", 17)
    model: ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.save(folder / "samples.npy", rng.standard_normal((samples, width)).astype(np.float32))
    return folder / "model.onnx"


# The peak that the kernel reports of a child counts what its parent held; its own status does not.
_RUN = """
import sys
from pathlib import Path
from snn_compile.compiler.cli import main
main(standalone_mode=False)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0], file=sys.stderr)
"""


def peak_of_compiling(model: Path, memory: float | None) -> int:
    """Bytes that ``snn-compile`` held at most, the interpreter included."""
    samples, output = model.with_name("samples.npy"), model.with_name("snn.onnx")
    arguments = [model, "-o", output, "--calibration", samples]
    if memory is not None:
        arguments += ["--memory", memory]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stderr.splitlines()[-1]) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=90)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--external", action="store_true")
    parser.add_argument("--samples", type=int, nargs="+", default=[8])
    parser.add_argument("--memory", type=float)
    options = parser.parse_args()
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as name:
            model = write_network(
                *(Path(name), options.megabytes, options.width),
                external=options.external,
                samples=samples,
            )
            files = [file for file in Path(name).iterdir() if file.suffix != ".npy"]
            size = sum(file.stat().st_size for file in files)
            peak = peak_of_compiling(model, options.memory)
        told = f"model {size / 1e6:.0f} MB, {samples} samples, peak {peak / 1e6:.0f} MB"
        print(f"{told}, {peak / size:.2f} times the model")


if __name__ == "__main__":
    main()
