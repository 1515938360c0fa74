"""Runs one network in one runtime, in a process of its own, as the runtime's own Python has it.

    python tests/bench/runtimes_worker.py REQUEST

The request is JSON: ``runtime``, a key of ``RUNTIMES``; ``model``, a file; ``feed``, an .npz with
arrays [samples, ...] by input name; ``outputs``, the .npz to write, or null; ``patience``, seconds
after which no more samples are begun; ``seconds`` to time the first sample for, or 0.

1. Batch 1, one thread where the runtime can be told. Of each sample the first output is kept.
2. Times are CPU seconds of the whole process, the median of the runs.
3. The answer is the last line of the output, JSON: ``version``, ``samples`` and ``seconds``; or
   ``absent``, the module that is not installed; or ``refused``, what the runtime said.

Only the standard library and NumPy are needed besides the runtime, so that each may have a virtual
environment of its own, or an emulated processor.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Feed = dict[str, np.ndarray]
#: From inputs of one sample to the first output.
Run = Callable[[Feed], np.ndarray]

_WARM_UP, _FEWEST, _MOST = 2, 5, 300


def onnxruntime(model: str) -> Run:
    """Graph optimisation is on: without it no integer kernels run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)[0]


def onnx_reference(model: str) -> Run:
    """Operator by operator in NumPy; it has DequantizeLinear from opset 19 on."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.version_converter import convert_version

    proto = onnx.load(model)
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        proto = convert_version(proto, 19)
    evaluator = ReferenceEvaluator(proto)
    return lambda feed: evaluator.run(None, feed)[0]


def openvino(model: str) -> Run:
    """In float32 where not in integers; by default this processor's bfloat16 would be taken."""
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda feed: request.infer(feed)[0]


def tract(model: str) -> Run:
    """Optimised for one sample."""
    import tract as runtime

    network = runtime.onnx().load(model).into_model().into_runnable()
    return lambda feed: network.run(list(feed.values()))[0].to_numpy()


def opencv(model: str) -> Run:
    """cv2.dnn."""
    import cv2

    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(model)

    def run(feed: Feed) -> np.ndarray:
        for name, array in feed.items():
            network.setInput(array, name)
        return network.forward()

    return run


def tinygrad(model: str) -> Run:
    """On its CPU device, operators fused, captured after the second run."""
    os.environ["DEV"] = "CPU"
    from tinygrad import Tensor, TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(model)
    jitted = TinyJit(lambda **feed: next(iter(runner(feed).values())).realize())
    return lambda feed: jitted(**{name: Tensor(x).realize() for name, x in feed.items()}).numpy()


def onnx2torch(model: str) -> Run:
    """As modules of PyTorch."""
    import torch
    from onnx2torch import convert

    torch.set_num_threads(1)
    network = convert(model).eval()

    def run(feed: Feed) -> np.ndarray:
        with torch.no_grad():
            result = network(*map(torch.from_numpy, feed.values()))
        return (result if torch.is_tensor(result) else result[0]).numpy()

    return run


def mnn(model: str) -> Run:
    """Converted by its own tool."""
    import MNN

    folder = tempfile.mkdtemp()
    converted = str(Path(folder) / "model.mnn")
    tool = Path(sys.executable).with_name("mnnconvert")
    command = [tool, "-f", "ONNX", "--modelFile", model, "--MNNModel", converted, "--bizCode", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not Path(converted).is_file():
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1},))
    names: list[str] = []
    network = MNN.nn.load_module_from_file(converted, names, names, runtime_manager=runtime)

    def run(feed: Feed) -> np.ndarray:
        inputs = [
            MNN.expr.const(np.ascontiguousarray(x), list(x.shape), MNN.expr.NCHW)
            for x in feed.values()
        ]
        return MNN.expr.convert(network.forward(inputs)[0], MNN.expr.NCHW).read().copy()

    return run


def tvm(model: str) -> Run:
    """Relax, for LLVM, without tuning."""
    import onnx
    import tvm as runtime
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = relax.transform.DecomposeOpsForInference()(from_onnx(onnx.load(model)))
    machine = relax.VirtualMachine(relax.build(module, target="llvm"), runtime.cpu())

    def run(feed: Feed) -> np.ndarray:
        result = machine["main"](*map(runtime.runtime.tensor, feed.values()))
        return (result if hasattr(result, "numpy") else result[0]).numpy()

    return run


def iree(model: str) -> Run:
    """For LLVM and this processor; its importer wants fixed shapes."""
    import iree.compiler
    import iree.runtime
    import onnx

    proto = onnx.load(model)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with tempfile.TemporaryDirectory() as folder:
        fixed, imported = Path(folder) / "fixed.onnx", Path(folder) / "imported.mlir"
        onnx.save(proto, fixed)
        tool = Path(sys.executable).with_name("iree-import-onnx")
        subprocess.run([tool, fixed, "-o", imported], capture_output=True, check=True)
        compiled = iree.compiler.compile_file(
            str(imported),
            target_backends=["llvm-cpu"],
            extra_args=["--iree-llvmcpu-target-cpu=host"],
        )
    module = iree.runtime.load_vm_flatbuffer(compiled, driver="local-sync")
    main = getattr(module, proto.graph.name)
    return lambda feed: np.asarray(main(*feed.values()))


def ncnn(model: str) -> Run:
    """Converted by pnnx, which wants the shapes of inputs; in float32, without a batch axis."""
    import ncnn as runtime
    import pnnx

    networks = []

    def load(feed: Feed) -> runtime.Net:
        folder = Path(tempfile.mkdtemp())
        shutil.copy(model, folder / "model.onnx")
        shapes = ",".join(str(list(x.shape)).replace(" ", "") for x in feed.values())
        tool = Path(pnnx.EXEC_PATH)
        command = [tool, "model.onnx", f"inputshape={shapes}", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not (folder / "model.ncnn.param").is_file():
            raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
        network = runtime.Net()
        network.opt.num_threads = 1
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = False
        network.opt.use_fp16_arithmetic = network.opt.use_bf16_storage = False
        for part, read in (("param", network.load_param), ("bin", network.load_model)):
            if read(str(folder / f"model.ncnn.{part}")):
                raise RuntimeError(f"ncnn does not read what pnnx wrote ({part})")
        return network

    def run(feed: Feed) -> np.ndarray:
        if not networks:
            networks.append(load(feed))
        extractor = networks[0].create_extractor()
        for i, array in enumerate(feed.values()):
            extractor.input(f"in{i}", runtime.Mat(np.ascontiguousarray(array[0])))
        status, result = extractor.extract("out0")
        if status:
            raise RuntimeError(f"ncnn ends with {status}")
        return np.array(result)[None]

    return run


#: By name: how a network is loaded, and the package whose version is told.
RUNTIMES: dict[str, tuple[Callable[[str], Run], str]] = {
    "onnxruntime": (onnxruntime, "onnxruntime"),
    "openvino": (openvino, "openvino"),
    "onnx.reference": (onnx_reference, "onnx"),
    "tract": (tract, "tract"),
    "opencv": (opencv, "opencv-python-headless"),
    "tinygrad": (tinygrad, "tinygrad"),
    "onnx2torch": (onnx2torch, "onnx2torch"),
    "MNN": (mnn, "MNN"),
    "tvm": (tvm, "apache-tvm"),
    "iree": (iree, "iree-base-compiler"),
    "ncnn": (ncnn, "ncnn"),
}


def answer(request: dict[str, object]) -> dict[str, object]:
    """See the module's text."""
    load, package = RUNTIMES[str(request["runtime"])]
    with np.load(str(request["feed"])) as arrays:
        feeds = dict(arrays)
    count = len(next(iter(feeds.values())))
    samples = [{name: x[i : i + 1] for name, x in feeds.items()} for i in range(count)]
    try:
        run = load(str(request["model"]))
        outputs = [np.array(run(samples[0]))]  # which may compile
        begin = time.perf_counter()
        for sample in samples[1:]:
            outputs.append(np.array(run(sample)))
            if time.perf_counter() - begin > float(str(request["patience"])):
                break
        seconds = _time(run, samples[0], float(str(request["seconds"])))
    except ModuleNotFoundError as error:
        return {"absent": error.name}
    except Exception as error:  # whatever the runtime raises
        return {"refused": f"{type(error).__name__}: {error}"}
    if request["outputs"]:
        np.savez(str(request["outputs"]), outputs=np.concatenate(outputs))
    version = importlib.metadata.version(package)
    return {"version": version, "samples": len(outputs), "seconds": seconds}


def _time(run: Run, sample: Feed, seconds: float) -> float | None:
    if not seconds:
        return None
    begin = time.process_time()
    for _ in range(_WARM_UP):
        run(sample)
    each = max((time.process_time() - begin) / _WARM_UP, 1e-6)
    times = []
    for _ in range(int(np.clip(seconds / each, _FEWEST, _MOST))):
        begin = time.process_time()
        run(sample)
        times.append(time.process_time() - begin)
    return float(np.median(times))


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
