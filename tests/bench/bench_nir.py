"""Spikes of a network exported to NIR, in sinabs, against its ONNX network in onnxruntime.

    python tests/bench/bench_nir.py MODEL.onnx --calibration calib.npz --data test.npz

Compiled as by --target nir. The last line is what sinabs makes of the file with its own settings,
in the right order of nodes. Needs nir, sinabs and torch.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path

import nir
import numpy as np
import sinabs.layers
import sinabs.nir
import torch
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.targets.nir.package import nir_bytes
from snn_compile.passes.graph.network import constant_of


def spikes_in_onnxruntime(timed, steps, feed):
    """[B, T, ...] by the neuron's name."""
    neurons = [node for node in timed.proto.graph.node if node.op_type == "IntegrateFire"]
    session = make_session(with_outputs(timed, [n.output[0] for n in neurons]), optimise=False)
    found = {}
    for node, y in zip(neurons, session.run(None, feed), strict=True):
        theta = constant_of(timed, node.input[1])
        theta = theta.reshape(-1, *[1] * (y.ndim - 2)) if theta.ndim else theta
        found[node.name] = np.rint(y / theta).reshape(steps, -1, *y.shape[1:]).swapaxes(0, 1)
    return found


def spikes_in_sinabs(graph, x, *, as_nir_says):
    """[B, T, ...] by the neuron's name in the ONNX network."""
    steps = int(graph.metadata["timesteps"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of nirtorch, in sinabs
        network = sinabs.nir.from_nir(graph, num_timesteps=steps)
    network.execution_order.sort(key=lambda node: node.name)
    found = {}
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.IF):
            continue
        layer = network.get_submodule(name)
        if as_nir_says:
            layer.spike_fn, layer.min_v_mem = sinabs.activation.SingleSpike, None
        if "onnx_node" in node.metadata:
            of = node.metadata["onnx_node"]
            layer.register_forward_hook(lambda *seen, of=of: found.update({of: seen[2].numpy()}))
    with torch.no_grad():
        network(torch.from_numpy(x).repeat_interleave(steps, dim=0))
    return {name: array.reshape(len(x), steps, *array.shape[1:]) for name, array in found.items()}


def main() -> None:
    """Print how many spikes differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--samples", type=int, default=20)
    arguments = parser.parse_args()
    steps = arguments.timesteps
    options = CompileOptions(timesteps=steps, target="nir")
    result = compile_model(arguments.model, arguments.calibration, options)
    graph = nir.read(io.BytesIO(nir_bytes(result.nir)))
    (spec,) = input_specs(result.network.proto)
    with np.load(arguments.data) as samples:
        x = samples[spec.name][: arguments.samples].astype(spec.dtype)
    expected = spikes_in_onnxruntime(result.network, steps, {spec.name: x})
    print(
        f"{arguments.model.name}, T = {steps}, {len(x)} samples, {len(expected)} layers of neurons"
    )
    for as_nir_says in (True, False):
        found = spikes_in_sinabs(graph, x, as_nir_says=as_nir_says)
        assert set(found) == set(expected)
        different = sum(int((found[name] != spikes).sum()) for name, spikes in expected.items())
        settings = "as NIR says" if as_nir_says else "its own settings"
        total = sum(spikes.size for spikes in expected.values())
        print(f"sinabs, {settings}: {different:,} of {total:,} different")


if __name__ == "__main__":
    main()
