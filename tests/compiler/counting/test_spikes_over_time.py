"""Spikes of networks over several timesteps, against a simulation step by step and loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from snn_compile.compiler.counting.spikes import SpikeMeter
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.evaluation.energy import estimate_energy
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.lowering.spatial_to_temporal import spatial_to_temporal
from spikes_by_hand import assert_counted, count, measure, network, values_of


def simulated(current, theta, low, high, timesteps):
    """Spikes of an IntegrateFire, int64 [timesteps, B, ...], one step after the other."""
    steps = current.reshape(timesteps, -1, *current.shape[1:])
    left, fired = np.zeros_like(steps[0]), []
    for x in steps:
        u = left + x
        most = np.where(u >= 0, np.float32(high), np.float32(-low))
        k = np.sign(u) * np.minimum(np.floor(np.abs(u) / theta + np.float32(0.5)), most)
        left = u - theta * k
        fired.append(k.astype(np.int64))
    return np.stack(fired)


def added(node, steps, weights):
    """Totals over all steps of operands [timesteps, B, ...]; products of one step only."""
    totals = Counter()
    for k in steps:
        totals.update(count(node, k, weights))
    totals["macs"] = count(node, steps[0], weights)["macs"]
    return totals


NEURONS = {
    "binary": (4, 0, 1, np.float32(1)),
    "per channel": (3, 0, 2, np.float32([0.5, 1, 0.75])),
    "signed": (2, -3, 2, np.float32(0.25)),
    "many levels": (2, -300, 400, np.float32(1 / 256)),
}


@pytest.mark.parametrize("neuron", NEURONS)
def test_every_step_is_counted(neuron):
    """Conv and Gemm behind neurons of which only the second one moves its spikes."""
    timesteps, low, high, theta = NEURONS[neuron]
    rng = np.random.default_rng(timesteps)
    fire = f"ai.snn.IntegrateFire <levels_pos = {high}, levels_neg = {-low}, "
    fire += f"timesteps = {timesteps}>"
    weights = {
        "w0": rng.integers(-2, 3, (3, 2, 2)).astype(np.float32) / 4,
        "w1": rng.integers(-1, 2, (3, 3, 3)).astype(np.float32) / 4,
        "w2": rng.integers(-1, 2, (2, 9)).astype(np.float32),
    }
    snn = network(
        f"""g (float[N, 2, 7] x) => (float[M, 2] z) {{
            a = Conv (x, w0)
            r = Tile (a, every)
            y = {fire} (r, theta)
            b = Conv <strides = [2], pads = [1, 1]> (y, w1)
            v = {fire} (b, theta)
            p = Slice (v, at, end, axes)
            f = Flatten (p)
            z = Gemm <transB = 1> (f, w2)
        }}""",
        every=np.int64([timesteps, 1, 1]), theta=theta, at=np.int64([0]), end=np.int64([3]),
        axes=np.int64([2]), **weights,
    )  # fmt: skip
    feeds = [{"x": (rng.integers(-4, 9, (size, 2, 7)) / 8).astype(np.float32)} for size in (3, 1)]
    neurons, synapses = measure(snn, *feeds)
    nodes = {node.name: node for node in snn.proto.graph.node}
    spikes = {"y": [], "v": []}
    expected = {"Conv of b": Counter(), "Gemm of z": Counter()}
    aligned = theta.reshape(-1, 1) if theta.ndim else theta
    for feed in feeds:
        for name, current in zip(spikes, values_of(snn, ["r", "b"], feed), strict=True):
            spikes[name].append(simulated(current, aligned, low, high, timesteps))
        np.testing.assert_array_equal(
            values_of(snn, ["y"], feed)[0], spikes["y"][-1].reshape(-1, 3, 6) * aligned
        )
        own = spikes["v"][-1][..., :3].reshape(timesteps, len(feed["x"]), 9)
        expected["Conv of b"].update(added(nodes["Conv of b"], spikes["y"][-1], weights["w1"]))
        expected["Gemm of z"].update(added(nodes["Gemm of z"], own, weights["w2"]))
    for name, totals in expected.items():
        assert_counted(synapses[name], totals, 4)
        assert synapses[name].repeats == timesteps
        assert totals["unary"] > 0
    if neuron == "binary":
        assert synapses["Conv of b"].unary == synapses["Conv of b"].graded
    first = synapses["Conv of a"]
    assert (first.analog, first.repeats) == ("reads the network's own input", 1)
    assert first.macs == np.count_nonzero(weights["w0"]) * 6
    for name, shape in (("y", (3, 6)), ("v", (3, 3))):
        found = neurons[f"IntegrateFire of {name}"]
        k = np.concatenate([part.reshape(-1, *shape) for part in spikes[name]])
        assert (found.timesteps, found.levels, found.neurons) == (
            timesteps, (-low, high), np.prod(shape),
        )  # fmt: skip
        assert found.spikes_per_value == np.abs(k).sum() / k.size
        assert found.spikes == np.abs(k).sum() / 4
        assert found.active == (k != 0).mean() > 0
        assert found.silent_neurons == (k == 0).all(0).mean()
        outermost = ((k == low) & (low < 0)) | (k == high)
        assert found.saturated_neurons == outermost.all(0).mean()
        assert found.clip_rate is None
        if high - low < 255:
            seen = [(k == i).sum() for i in range(low, high + 1)]
            np.testing.assert_array_equal(found.level_counts, seen)


SPATIAL = """g (float[N, 2, 9] x) => (float[N, 3, W] z) {{
    a = ai.snn.MultiThresholdFire <levels_pos = {levels}> (x, theta)
    b = Conv <pads = [1, 1]> (a, w1)
    c = ai.snn.MultiThresholdFire <levels_pos = {levels}> (b, theta)
    {pool}
    z = Conv <strides = [2], pads = [1, 0]> (m, w2)
}}"""


def spatial(timesteps, pool="m = Identity (c)"):
    """A network inside the premise of the equivalence, and its input: nothing is rounded."""
    rng = np.random.default_rng(timesteps)
    snn = network(
        SPATIAL.format(levels=timesteps, pool=pool),
        theta=np.float32(1 / timesteps),
        w1=rng.integers(0, 3, (4, 2, 3)).astype(np.float32) / 16,
        w2=rng.integers(0, 2, (3, 4, 3)).astype(np.float32) / 16,
    )
    return snn, {"x": rng.integers(0, 65, (5, 2, 9)).astype(np.float32) / 64}


def over_time(snn, timesteps, **options):
    return export_network(spatial_to_temporal(import_model(snn), timesteps, **options).graph)


@pytest.mark.parametrize("timesteps", [2, 8, 32])
@pytest.mark.parametrize("delayed", [True, False])
def test_unary_operations_are_those_of_one_step_inside_the_premise(timesteps, delayed):
    snn, feed = spatial(timesteps)
    neurons, synapses = measure(snn, feed)
    timed_neurons, timed = measure(over_time(snn, timesteps, delayed=delayed), feed)
    for name in ("b", "z"):
        found, once = timed[f"Conv of {name}"], synapses[f"Conv of {name}"]
        assert found.unary == once.unary > 0
        assert found.unary == found.bit_serial == found.graded  # a binary spike has one bit
        assert (found.macs, found.bits, found.analog) == (once.macs, once.bits, "")
    for name, neuron in neurons.items():
        found = timed_neurons[name]
        assert found.spikes == neuron.spikes > 0
        assert found.timesteps * found.spikes_per_value == pytest.approx(
            neuron.spikes_per_value, rel=1e-12
        )


def test_running_means_are_analog_at_every_step():
    snn, feed = spatial(4, pool="m = MaxPool <kernel_shape = [2], strides = [1]> (c)")
    _, once = measure(snn, feed)
    _, found = measure(over_time(snn, 4), feed)
    synapse = found["Conv of z"]
    assert synapse.analog.startswith("reads values that Div 'c.means")
    assert (synapse.macs, synapse.repeats, synapse.unary) == (once["Conv of z"].macs, 4, 0)
    energy = estimate_energy([], [synapse], []).totals
    assert energy["unary"] == 4 * energy["ann_fp32"] > 0
    _, delayed = measure(over_time(snn, 4, delayed=True), feed)
    synapse = delayed["Conv of z"]  # the largest mean is not the mean of the largest
    assert synapse.analog == "reads values that MaxPool 'MaxPool of m' computes"
    assert synapse.repeats == 1


def test_inputs_over_time_are_refused():
    snn, _ = spatial(2)
    with pytest.raises(ModelError, match="compiled without --time-axis"):
        SpikeMeter(over_time(snn, 2, time_axis=True), ["z"])
