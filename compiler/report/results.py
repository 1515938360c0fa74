"""What an evaluation found, as plain data: the tables, the JSON and the HTML report show it.

Shares are between 0 and 1, times in seconds, energies in picojoules per sample. What was not
measured, or does not apply, is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..counting.results import NeuronResult, SynapseResult

_NETWORKS = {"ann": "ANN", "snn": "SNN, C++ kernels", "snn_functions": "SNN, function bodies"}
_SPIKING = ("unary", "bit_serial", "graded")
#: Of an SNN, with weights of float32 and of 8 bits.
SPIKING_ACCOUNTINGS = (*_SPIKING, *(f"{name}_int8" for name in _SPIKING))


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval over the samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """A measure of a task (:mod:`..evaluation.tasks`), of one network.

    Attributes:
        name: what is measured.
        value: of the network.
        ann: of the ANN; None of an agreement with it.
        drop: ann - value, with the interval of the paired difference; None likewise.
    """

    name: str
    value: Estimate
    ann: Estimate | None = None
    drop: Estimate | None = None


@dataclass
class Confusion:
    """Which classes two networks give on the same samples.

    Attributes:
        classes: how many the output has.
        shown: those with a row and a column of their own.
        counts: samples, [of the ANN][of the other network]; where not all classes are shown the
            last row and column are all others.
    """

    classes: int
    shown: list[int]
    counts: list[list[int]]


@dataclass
class ErrorMap:
    """Where on a map two networks differ, in cells of several places where it is large.

    Attributes:
        size: height and width of the map.
        error: root mean square of the difference, over samples and channels, by row and column.
        other: share of samples whose channel of the largest value is another one; None of one
            channel.
    """

    size: list[int]
    error: list[list[float]]
    other: list[list[float]] | None


@dataclass
class ImageBoxes:
    """What two detectors find on one image.

    Attributes:
        sample: its number among the samples.
        size: height and width of the networks' input.
        ann: left, top, right, bottom in pixels, score and class of each box.
        other: likewise of the other network.
    """

    sample: int
    size: list[int]
    ann: list[list[float]]
    other: list[list[float]]


@dataclass
class OutputResult:
    """One floating-point output of a network, against that of the ANN.

    Attributes:
        name: of the output.
        max_abs: largest absolute difference; inf where only one is finite, or shapes differ.
        relative_l2: ||network - ann|| / ||ann||.
        cosine: mean over samples of the cosine between the two outputs of a sample.
        agreement: share of samples with the same argmax; of [batch, classes] outputs.
        ann_top1: share of samples whose argmax is the label, of the ANN; needs labels.
        top1: likewise of the network.
        drop: ann_top1 - top1, with the interval of the paired difference.
        ann_top5: share of samples whose label is among the five highest; from six classes on.
        top5: likewise of the network.
        metrics: of the task, where it is not classification.
        confusion: of the SNN that is evaluated, of [batch, classes] outputs.
        error_map: likewise, of outputs that are maps.
        boxes: of a few images, of outputs that hold boxes.
    """

    name: str
    max_abs: float
    relative_l2: float
    cosine: float | None = None
    agreement: Estimate | None = None
    ann_top1: Estimate | None = None
    top1: Estimate | None = None
    drop: Estimate | None = None
    ann_top5: Estimate | None = None
    top5: Estimate | None = None
    metrics: list[Metric] = field(default_factory=list)
    confusion: Confusion | None = None
    error_map: ErrorMap | None = None
    boxes: list[ImageBoxes] = field(default_factory=list)


@dataclass
class ResidueResult:
    """Float arithmetic that no accounting of synapses sees: softmax, normalisation, sums."""

    name: str
    op: str
    elements: float


@dataclass
class LayerRate:
    """How often spikes meet the synapses of a linear operator, and from where on they do not pay.

    The network it is compared with has activations of ceil(log2(N + 1)) bits ("ann_bits"); the SNN
    has int8 weights like it. Below the break-even rate the SNN takes less. Derived in
    docs/energy.md.

    Attributes:
        name: node name.
        events: share of the multiply-accumulates that meet an event: graded / MACs.
        events_break_even: of them, one multiply-accumulate for each; None where nothing fired.
        events_break_even_memory: likewise with memory accesses; None where a byte has no energy.
        spikes: unit spikes per multiply-accumulate: unary / MACs.
        spikes_break_even: of them, one accumulate for each.
        spikes_break_even_memory: likewise with memory accesses.
    """

    name: str
    events: float
    events_break_even: float | None
    events_break_even_memory: float | None
    spikes: float
    spikes_break_even: float | None
    spikes_break_even_memory: float | None


@dataclass
class EnergyResult:
    """Estimated energy per sample.

    Attributes:
        constants: pJ per operation, by name, as used.
        constants_source: where they come from.
        synapses: per linear operator.
        residue: float operators, listed apart and not in any total.
        totals: pJ per sample by accounting: "unary", "bit_serial", "graded" of the SNN, and with
            "_int8" of one with int8 weights; "ann_fp32", "ann_int8", "ann_bits" (a network of
            ceil(log2(N + 1)) bits). What each is: the table in energy.py.
        analog_share: share of the MACs in layers with analog input.
        notes: what the figures leave out.
        memory: pJ per sample by accounting, for reading and writing operands: beside the totals,
            not in them; empty where a byte has no energy.
        rates: per linear operator that reads spikes.
        levels: N of most of the neurons that linear operators read; 0: there are none, or one
            whose levels are no multiples of one step.
        cheaper_up_to: the largest N at which spikes sent one by one would take no more than the
            ANN of the same precision, if they grow with N: "fp32", "int8", and with "_memory"
            where memory accesses count too. An estimate; below 1: at no N.
        neurobench: activation sparsity and synaptic operations in the terms of NeuroBench.
    """

    constants: dict[str, float]
    constants_source: str
    synapses: list[SynapseResult]
    residue: list[ResidueResult]
    totals: dict[str, float]
    analog_share: float
    notes: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    rates: list[LayerRate] = field(default_factory=list)
    levels: int = 0
    cheaper_up_to: dict[str, float] = field(default_factory=dict)
    neurobench: dict[str, float] = field(default_factory=dict)


@dataclass
class LatencyResult:
    """One network at one batch size.

    Attributes:
        network: "ann", "snn" (with the library, if it has operators of it; missing where that is
            not installed), "snn_functions" (without), or a baseline's name.
        batch: samples per run.
        seconds: median of the processes' median times of a run.
        ratio: median over rounds of its time over that of the ANN in the same round.
        peak_bytes: largest resident memory of its processes; None where the system does not say.
        seconds_range: least and largest of its processes' medians; None of one process.
        ratio_range: least and largest ratio of a round; None of one round.
    """

    network: str
    batch: int
    seconds: float
    ratio: float
    peak_bytes: int | None
    seconds_range: tuple[float, float] | None = None
    ratio_range: tuple[float, float] | None = None

    @property
    def spread(self) -> float | None:
        """The range of its times as a share of their median; None where there is none."""
        if self.seconds_range is None or self.seconds == 0:
            return None
        return (self.seconds_range[1] - self.seconds_range[0]) / self.seconds


@dataclass
class BaselineResult:
    """Another network made from the same ANN, on the same samples."""

    name: str
    description: str
    outputs: list[OutputResult]


@dataclass
class SweepPoint:
    """One compiled network of a sweep, or a baseline in the same plot.

    Attributes:
        label: what varies: "levels=8 scale=0.5"; a baseline's name.
        setting: values of the options that are swept, by name; empty of a baseline.
        outputs: against the ANN; empty of one that is refused.
        energy: pJ per sample by accounting; of integers by those of 8 bits alone.
        integers: whether spikes and weights are integers.
        pareto: the accountings in which no other point of the sweep, with weights of the same
            precision, is better in accuracy and energy.
        refused: why it could not be compiled, or empty.
    """

    label: str
    setting: dict[str, Any]
    outputs: list[OutputResult]
    energy: dict[str, float]
    integers: bool = False
    pareto: list[str] = field(default_factory=list)
    refused: str = ""


@dataclass
class Difference:
    """Levels by which neurons differ, in units of the threshold of the one-step neuron.

    Attributes:
        share: of neurons and samples with a difference.
        mean: over all of them.
        largest: of all.
    """

    share: float
    mean: float
    largest: int


@dataclass
class PremiseNeuron:
    """One neuron node of a T-step network against one step; definitions: docs/equivalence.md.

    Attributes:
        name: node name.
        neurons: how many values it has per sample.
        levels: [negative, positive] of one of the T steps.
        v0: initial membrane potential as a fraction of the threshold.
        below: share of the steps' inputs that are below the premise.
        above: share above it.
        outside: share of neurons and samples with such an input.
        inside_differing: how many differ though all their inputs are inside.
        own: spikes in T steps against one step on the mean of the same inputs.
        bound: what can be proved of it from the same inputs; its share is of those that may differ.
        total: spikes in T steps against those of the spatial network.
        left_out: neurons and samples with an input that is not finite.
    """

    name: str
    neurons: int
    levels: tuple[int, int]
    v0: float
    below: float
    above: float
    outside: float
    inside_differing: int
    own: Difference
    bound: Difference
    total: Difference
    left_out: int = 0


@dataclass
class PremiseResult:
    """A T-step network against its spatial network.

    Attributes:
        timesteps: T.
        samples: how many were run.
        spatial: which network has one step: "ann", the first that was given, or "made", from the
            SNN.
        neurons: per neuron node, in the order they run.
        outputs: of the T-step network against those of the spatial one.
    """

    timesteps: int
    samples: int
    neurons: list[PremiseNeuron]
    outputs: list[OutputResult]
    spatial: str = "made"


@dataclass(repr=False)
class EvaluationResult:
    """The outcome of ``snn-eval``.

    Attributes:
        ann: file, SHA-256, and size in bytes.
        snn: likewise, the compiler's own metadata, and whether it holds "integers" (target int8).
        data: file, SHA-256, samples, whether labelled; of images their classes and preprocessing.
        outputs: SNN against ANN, per output.
        neurons: per neuron node, in the order they run.
        energy: None where it was not asked for.
        latency: empty where it was not asked for.
        baselines: those asked for.
        sweep: networks compiled with one setting after another; empty where not asked for.
        flips_outputs: SNN without graph optimisation against SNN with it, per output.
        premise: the T-step network against one step; None where it was not asked for.
        task: "classification", "segmentation" and so on; empty where no labels say one.
        versions: of the packages used.
        threads: that compute; latency has them too.
        command: as typed.
        warnings: what the user should know.
    """

    ann: dict[str, Any]
    snn: dict[str, Any]
    data: dict[str, Any]
    samples: int
    outputs: list[OutputResult]
    neurons: list[NeuronResult] = field(default_factory=list)
    energy: EnergyResult | None = None
    latency: list[LatencyResult] = field(default_factory=list)
    baselines: list[BaselineResult] = field(default_factory=list)
    sweep: list[SweepPoint] = field(default_factory=list)
    flips_outputs: list[OutputResult] = field(default_factory=list)
    premise: PremiseResult | None = None
    task: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    threads: int | None = None
    command: str = ""
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """Samples, how each output compares, and how many warnings there are."""
        facts = [f"{self.samples} samples"]
        for output in self.outputs:
            shares = (
                ("agreement", output.agreement),
                ("top-1", output.top1),
                ("top-1 of the ANN", output.ann_top1),
            )
            known = [f"{name} {one.value:.1%}" for name, one in shares if one is not None]
            known += [f"{one.name} {one.value.value:.1%}" for one in output.metrics]
            facts.append(
                f"{output.name}: {', '.join([*known, f'relative error {output.relative_l2:.2g}'])}"
            )
        if self.warnings:
            facts.append(f"{len(self.warnings)} warnings")
        return f"EvaluationResult({'; '.join(facts)})"

    @property
    def integers(self) -> bool:
        """Whether spikes and weights of the SNN are integers of 8 bits."""
        return bool(self.snn.get("integers"))

    @property
    def accountings(self) -> list[str]:
        """Those of the SNN with weights as it has them: unary, bit-serial, graded."""
        return [f"{name}_int8" if self.integers else name for name in _SPIKING]

    def called(self, network: str) -> str:
        """What a network of :class:`LatencyResult` is called."""
        if network == "snn" and self.integers:
            return "SNN"
        return _NETWORKS.get(network, network)
