"""Results of evaluations and compilations that nothing was run for, to show them."""

from __future__ import annotations

import numpy as np
from snn_compile.compiler.calibration.fitting.membrane import BINS, MembraneHistogram
from snn_compile.compiler.counting.activity import NeuronActivity
from snn_compile.compiler.counting.results import NeuronResult, SynapseResult
from snn_compile.compiler.evaluation.energy import ACCOUNTINGS
from snn_compile.compiler.report.coverage import Coverage, CoverageLine
from snn_compile.compiler.report.data import CompileReport, NeuronReport, PassReport
from snn_compile.compiler.report.results import (
    BaselineResult,
    Difference,
    EnergyResult,
    Estimate,
    EvaluationResult,
    LatencyResult,
    LayerRate,
    OutputResult,
    PremiseNeuron,
    PremiseResult,
    ResidueResult,
    SweepPoint,
)
from snn_compile.compiler.running.fidelity import FidelityMeter, OutputFidelity
from snn_compile.compiler.running.layer_errors import LayerError, LayerErrors
from snn_compile.compiler.verify import Verification


def estimate(value: float) -> Estimate:
    return Estimate(value, max(value - 0.01, 0.0), min(value + 0.01, 1.0))


def classes(top1: float = 0.9, agreement: float = 0.95, name: str = "scores") -> OutputResult:
    """An output with labels."""
    shares = [estimate(share) for share in (agreement, 0.91, top1)]
    return OutputResult(name, 0.5, 0.04, 0.99, *shares, Estimate(0.91 - top1, -0.001, 0.02))


def embedding(name: str = "embedding") -> OutputResult:
    """An output without classes."""
    return OutputResult(name, 0.5, 0.04, 0.99)


def neuron(name: str, levels: int = 8) -> NeuronResult:
    counts = [50, *[5] * levels]
    return NeuronResult(
        name, "MultiThresholdFire", f"source of {name}", "Relu", 64, (0, levels), (0, levels), 1.5,
        0.5, 0.1, 0.02, 0.03, 2.2, counts, list(range(levels + 1)), 1e-5,
    )  # fmt: skip


def synapse(name: str, reads: str, energy: float = 1000.0) -> SynapseResult:
    """A convolution; ``reads`` is a neuron, "" for the network's input."""
    by_accounting = {key: energy * (i + 1) for i, key in enumerate(ACCOUNTINGS)}
    analog = "" if reads else "reads the network's own input"
    inputs = [reads] if reads else []
    return SynapseResult(
        name, "Conv", inputs, analog, 9216.0, 10.0, 40.0, 20.0, 30.0, 4, by_accounting
    )


def premise(names: list[str]) -> PremiseResult:
    """Four timesteps against one."""
    neurons = [
        PremiseNeuron(
            name, 64, (0, 2), 0.5, 0.25, 0.125, 0.3, 0, Difference(0.01, 0.02, 3),
            Difference(0.04, 0.05, 6), Difference(0.07, 0.08, 9),
        )
        for name in names
    ]  # fmt: skip
    return PremiseResult(4, 32, neurons, [classes(1.0, 1.0)])


def energies(synapses: list[SynapseResult]) -> EnergyResult:
    totals = {key: sum(s.energy[key] for s in synapses) for key in ACCOUNTINGS}
    residue = [ResidueResult("shares", "Softmax", 10.0)]
    constants = {"add_int8": 0.03}
    rates = [LayerRate(s.name, 0.5, 0.75, 0.2, 5.0, 5.75, None) for s in synapses]
    memory = {key: 2 * value for key, value in totals.items()}
    return EnergyResult(
        constants, "a source", synapses, residue, totals, 0.1, ["a note"], memory, rates
    )


def evaluation(size: int = 2, **changes: object) -> EvaluationResult:
    """An evaluation with everything in it."""
    names = [f"neuron {i}" for i in range(size)]
    synapses = [
        synapse(f"layer {i}", name, 1000.0 * (i + 1)) for i, name in enumerate(["", *names])
    ]
    everything: dict[str, object] = {
        "ann": {"file": "ann.onnx", "sha256": "1" * 64, "bytes": 100},
        "snn": {"file": "snn.onnx", "sha256": "2" * 64, "compiler": {"version": "0.1.0"}},
        "data": {"file": "test.npz", "sha256": "3" * 64},
        "samples": 200,
        "outputs": [classes(), embedding()],
        "neurons": [neuron(name) for name in names],
        "energy": energies(synapses),
        "latency": [
            LatencyResult(name, 1, 0.001 * (i + 1), 1.0 + i, 1 << 27, (0.0009, 0.004), (0.5, 4.0))
            for i, name in enumerate(("ann", "snn", "snn_functions"))
        ],
        "baselines": [BaselineResult("int8", "eight bits", [classes(0.88), embedding()])],
        "flips_outputs": [classes(1.0, 1.0)],
        "premise": premise(names),
        "versions": {"numpy": "2.0"},
        "command": "snn-eval ann.onnx snn.onnx --data test.npz",
        "warnings": ["something to know"],
    }
    return EvaluationResult(**everything | changes)  # type: ignore[arg-type]


def membrane(levels: int = 8) -> MembraneHistogram:
    return MembraneHistogram(
        "theta", -4.0, 12.0, [0.9 / BINS] * BINS, 0.06, 0.04, [k + 0.5 for k in range(levels)],
        [float(k) for k in range(levels + 1)], [1 / (levels + 1)] * (levels + 1),
    )  # fmt: skip


def fidelity() -> OutputFidelity:
    meter = FidelityMeter("scores")
    meter.add(np.eye(4, dtype=np.float32), np.eye(4, k=1, dtype=np.float32))
    return meter.result()


def compilation(neurons: int = 2) -> CompileReport:
    """The compile report of the same network."""
    names = [f"neuron {i}" for i in range(neurons)]
    lines = [
        CoverageLine(
            "layer 0", "Conv", "linear", "kept", "reads the network's own input", "", 9216
        ),
        CoverageLine("softmax", "Softmax", "normalisation", "kept", "combines values", "node 7"),
    ]
    return CompileReport(
        version="0.1.0",
        model={"file": "ann.onnx", "producer": "", "sha256": "4" * 64},
        settings={"levels": 8, "bias_correction": True, "percentile": None},
        calibration={"samples": 64, "origin": "64 samples", "synthetic": False},
        passes=[PassReport("fold_batchnorm", 0.1, ["a change"])],
        neurons=[
            NeuronReport(
                name, "MultiThresholdFire", f"source of {name}", "Relu", "positive", 8,
                [0.5, 0.5], 1, "mse, per tensor", 0.01, 0.02, membrane(),
            )
            for name in names
        ],
        coverage=Coverage(lines, {"linear kept": 1, "normalisation kept": 1}, 9216, 0),
        verification=Verification(
            64,
            ["quantised ANN and SNN agree bit for bit, with and without the C++ kernels"],
            [fidelity()],
            [NeuronActivity(name, 0.02, 0.5, 1.5) for name in names],
        ),
        layer_errors=LayerErrors(32, [
            LayerError(name, "Relu", f"{name}.out", 0.01 * (i + 1), 0.02 * (i + 1), 0.99, 0.98)
            for i, name in enumerate(names)
        ]),
        warnings=["a warning of the compiler"],
    )  # fmt: skip


def point(
    top1: float | None, energy: float | None, label: str = "levels=8", **changes: object
) -> SweepPoint:
    """A network of a sweep."""
    outputs = [] if top1 is None else [classes(top1)]
    by_accounting = {} if energy is None else {"unary": energy, "graded": 2 * energy}
    return SweepPoint(label, {"levels": 8}, outputs, by_accounting, **changes)  # type: ignore[arg-type]
