"""What the neurons of a network fire, and into how many products it goes, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class NeuronResult:
    """One neuron node of the SNN: a tensor of neurons, each with a value per sample and timestep.

    Attributes:
        name: node name.
        op: the operator of domain ai.snn.
        source_node: the activation it stands for, "" where the model does not say.
        source_op: its operator, or "Encoder".
        neurons: how many values it has per sample.
        levels: [negative, positive], number of levels of either polarity.
        spike_range: [lowest, highest] k.
        spikes_per_value: mean number of unit spikes |k| per neuron, sample and timestep.
        active: share of values with at least one spike.
        silent_neurons: share of neurons that fire on no sample.
        saturated_neurons: share of neurons at their outermost level on every sample and timestep.
        clip_rate: share of values beyond the highest level; of MultiThresholdFire only.
        entropy: of the levels over all values, in bits; nan where there are too many to tell.
        level_counts: how often each level was seen, the lowest one first; empty where there are
            too many to tell.
        level_spikes: the k of each of them.
        flips: share of values whose level differs between sessions with and without graph
            optimisation, on the samples compared.
        timesteps: T, 1 but of IntegrateFire.
        spikes: mean number per sample, of all neurons together, summed over the timesteps.
    """

    name: str
    op: str
    source_node: str
    source_op: str
    neurons: int
    levels: tuple[int, int]
    spike_range: tuple[int, int]
    spikes_per_value: float
    active: float
    silent_neurons: float
    saturated_neurons: float
    clip_rate: float | None
    entropy: float
    level_counts: list[int] = field(default_factory=list)
    level_spikes: list[int] = field(default_factory=list)
    flips: float | None = None
    timesteps: int = 1
    spikes: float = 0.0


@dataclass
class SynapseResult:
    """One linear operator: multiply-accumulates of the ANN, synaptic operations of the SNN.

    All counts are means per sample, summed over timesteps. Definitions: docs/energy.md.

    Attributes:
        name: node name.
        op: Conv, ConvTranspose, Gemm or MatMul.
        inputs: names of the neurons whose spikes it reads; empty where its input is analog.
        analog: why it counts as analog: "" where it reads spikes.
        macs: multiply-accumulates of the ANN over weights that are not 0, borders left out.
        events: values that are not silent, times one: sum [k_j != 0].
        unary: sum |k_j| f_j.
        bit_serial: sum popcount(|k_j|) f_j.
        graded: sum [k_j != 0] f_j, one multiply per event and synapse.
        bits: ceil(log2(N + 1)) of the neuron it reads, N its levels times its timesteps.
        energy: in pJ, by accounting: see EnergyResult.
        memory: in pJ, by accounting: what reading and writing operands costs beside that; empty
            where the table of energies does not say what a byte costs.
        repeats: how often it is computed per sample: T where it depends on time.
    """

    name: str
    op: str
    inputs: list[str]
    analog: str
    macs: float
    events: float = 0.0
    unary: float = 0.0
    bit_serial: float = 0.0
    graded: float = 0.0
    bits: int = 0
    energy: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    repeats: int = 1
