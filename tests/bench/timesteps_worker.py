"""Measures one network over time: JSON on stdin, JSON on the last line of stdout.

``what`` is one of

============  ======================================================================================
compile       the network is compiled, kept in ``network``, and run on the test samples
spikingjelly  ResNet-20 as SpikingJelly converts it, ``options["mode"]``, at all of
              ``options["timesteps"]``
sinabs        the same of sinabs
time          seconds per sample of one network: of a file (``path``, ``library``), or of a tool
============  ======================================================================================

The first three give, for each T, one bit per test sample as hexadecimal digits (``ann`` and ``snn``
right, ``same`` answer) and ``spikes`` per sample: all levels that neurons fired, summed over steps.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from accuracy_configuration import Configuration
from accuracy_worker import compare, keep, run_batches
from shared_networks import NETWORKS, Feed, calibration_samples, load_model, test_samples
from snn_compile.compiler import compile_model
from snn_compile.compiler.counting.activity import ActivityMeter
from snn_compile.compiler.evaluation.latency_child import time_runs
from snn_compile.compiler.model_io.save import save_network
from snn_compile.compiler.running.probe import probe
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import Network
from snn_compile.runtime_ops.definition import DOMAIN

THREADS = 2
#: Test samples that run together, times timesteps, times bytes of the input.
_BATCH_BYTES = 16 << 20
_LEAST_RUNS = 3


def compiled(configuration: Configuration, data: Path, answers: Path, path: Path) -> dict[str, Any]:
    """Compile and run.

    Args:
        configuration: what.
        data: folder of networks and samples.
        answers: keeps the ANN's outputs between workers.
        path: gets the compiled network.
    """
    network = NETWORKS[configuration.network]
    ann = load_model(network, data)
    options = configuration.compile_options()
    samples = calibration_samples(network, data, configuration.calibration, configuration.seed)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.npz"
        np.savez(file, **samples)  # type: ignore[arg-type]
        snn = compile_model(ann, file, options).network
    seconds = time.perf_counter() - begin
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(snn, path)
    feed, labels = test_samples(network, data, configuration.test)
    timesteps = options.timesteps
    outputs, spikes = run_and_count(snn, feed, timesteps)
    result = compare(network, ann_outputs(configuration, data, answers, feed), outputs, labels)
    steps = {str(timesteps): result | {"spikes": spikes}}
    return {"steps": steps, "seconds": round(seconds, 2)}


def run_and_count(snn: Network, feed: Feed, timesteps: int) -> tuple[np.ndarray, float]:
    """The first output on all samples, and spikes per sample, over all steps."""
    fired = {n.name: n.output[0] for n in snn.proto.graph.node if n.domain == DOMAIN}
    one = {name: array[:1] for name, array in feed.items()}
    shapes = probe(snn, fired.values(), one)
    meter = ActivityMeter(snn, [snn.proto.graph.output[0].name])
    session = make_session(meter.network)
    count = len(next(iter(feed.values())))
    bytes_per_sample = timesteps * sum(array[:1].nbytes for array in feed.values())
    size = int(np.clip(_BATCH_BYTES // bytes_per_sample, 1, 50))
    outputs = []
    for begin in range(0, count, size):
        part = {key: array[begin : begin + size] for key, array in feed.items()}
        values = session.run(None, part)
        meter.add(values)
        outputs.append(values[0])
    # Rows of a neuron are steps and samples; its mean is over both.
    spikes = sum(
        activity.spikes_per_value * float(np.prod(shapes[fired[activity.name]]))
        for activity in meter.result()
    )
    return np.concatenate(outputs), float(spikes)


def converted(configuration: Configuration, data: Path, answers: Path) -> dict[str, Any]:
    """ResNet-20 as another tool converts it, at every T."""
    import torch
    from timesteps_peers import batches, check_same, load_resnet20, simulation

    torch.set_num_threads(1)  # it is not timed, and others may be
    network = NETWORKS[configuration.network]
    feed, labels = test_samples(network, data, configuration.test)
    (images,) = feed.values()
    expected = ann_outputs(configuration, data, answers, feed)
    (calibration,) = calibration_samples(
        network, data, configuration.calibration, configuration.seed
    ).values()
    torch_network = load_resnet20(load_model(network, data))
    check_same(torch_network, images, expected)
    wanted = configuration.options["timesteps"]
    spikes = np.zeros(max(wanted))

    def count(fired: torch.Tensor) -> None:
        spikes[:] += fired.sum(dim=(1, 2), dtype=torch.float64).numpy()

    mode = configuration.options["mode"]
    run = simulation(configuration.what, mode, torch_network, calibration, count)
    outputs = []
    with torch.inference_mode():
        for part in batches(images):
            outputs.append(run(part, max(wanted)).cumsum(0).numpy())
    answers_by_step = np.concatenate(outputs, axis=1)
    return {
        "steps": {
            str(timesteps): compare(network, expected, answers_by_step[timesteps - 1], labels)
            | {"spikes": float(spikes[:timesteps].sum()) / len(images)}
            for timesteps in wanted
        }
    }


def timed(request: dict[str, Any], data: Path) -> dict[str, Any]:
    """Seconds per sample, at ``request["batch"]`` samples."""
    network, batch = NETWORKS[request["network"]], request["batch"]
    feed, _ = test_samples(network, data, batch)
    if "path" in request:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "feed.npz"
            np.savez(file, **feed)  # type: ignore[arg-type]
            seconds = time_runs(
                request["path"], str(file), request["library"], THREADS, request["seconds"]
            )
        return {"seconds": seconds / batch}
    import torch
    from timesteps_peers import load_resnet20, simulation

    torch.set_num_threads(THREADS)
    (images,) = feed.values()
    (calibration,) = calibration_samples(network, data, batch, 0).values()
    torch_network = load_resnet20(load_model(network, data))
    run = simulation(
        request["tool"],
        request["mode"],
        torch_network,
        calibration,
        stepwise=request["stepwise"],
    )
    part = torch.from_numpy(images)
    times: list[float] = []
    with torch.inference_mode():
        run(part, request["timesteps"])
        while len(times) < _LEAST_RUNS or sum(times) < request["seconds"]:
            begin = time.perf_counter()
            run(part, request["timesteps"]).mean(dim=0)
            times.append(time.perf_counter() - begin)
    return {"seconds": median(times) / batch}


def ann_outputs(configuration: Configuration, data: Path, answers: Path, feed: Feed) -> np.ndarray:
    """The ANN's outputs on the test samples."""
    if not answers.is_file():
        ann = load_model(NETWORKS[configuration.network], data)
        keep(answers, run_batches(make_session(ann, library=False), feed))
    outputs: np.ndarray = np.load(answers)
    return outputs


def main() -> None:
    """The command that the benchmark runs."""
    request = json.load(sys.stdin)
    ort.set_default_logger_severity(3)
    data = Path(request["data"])
    if request["what"] == "time":
        result = timed(request, data)
    else:
        configuration = Configuration(**request["configuration"])
        answers = Path(request["answers"])
        if request["what"] == "compile":
            result = compiled(configuration, data, answers, Path(request["network"]))
        else:
            result = converted(configuration, data, answers)
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
