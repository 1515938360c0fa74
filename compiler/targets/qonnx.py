"""Target ``qonnx``: thresholds and integer weights of few bits, for FINN and the qonnx tools."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...passes.graph.graph import PassResult
from ...passes.graph.network import Network
from ...passes.graph.surgeon import export_network, import_model, infer_shapes
from ...passes.lowering.function_bodies import function_bodies
from ...passes.lowering.hardware import hardware
from ...passes.lowering.inline_functions import inline_functions
from ...passes.lowering.multi_threshold import (
    multi_threshold,
    qonnx_network,
    quantise_weights,
)
from ...passes.lowering.plain_layers import plain_layers
from ..errors import UsageError
from ..front_end import Checked, Prepared
from ..options import (
    ALL,
    AUTO,
    MEMBRANE,
    MOST_INT8,
    MULTI_THRESHOLD,
    QONNX,
    TENSOR,
    CompileOptions,
    filled,
)
from ..steps import Steps
from ..verify import Agreement, BitExact, Claim, InQonnx, Run
from .target import Artifact, Quantised

#: Of 4 bits.
_LEVELS = 15

_EXACT = (
    "thresholds and quantised weights agree bit for bit with the neurons that they are written "
    "for, so does the quantised ANN with these weights"
)


class Qonnx:
    """See the module's text."""

    name = QONNX

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Levels that are a number of bits; everything that a layer reads is encoded.

        Raises:
            UsageError: the options ask for something that QONNX cannot be.
        """
        if options.timesteps > 1 or options.time_axis or options.firing is not None:
            raise UsageError(
                "networks of QONNX have one timestep; leave out --timesteps, --time-axis and "
                "--firing"
            )
        if options.neuron not in (None, AUTO, MULTI_THRESHOLD):
            raise UsageError(
                f"the levels of qonnx are multiples of one threshold, {options.neuron} neurons "
                "have others; leave out --neuron"
            )
        if options.binary_spikes is not None:
            raise UsageError("the spikes of qonnx are integers; leave out --binary-spikes")
        if options.levels_budget or options.search_scale:
            raise UsageError(
                "neurons of qonnx have levels of so many bits, and share steps; leave out "
                "--levels-budget and --search-scale"
            )
        options = filled(
            options, levels=_LEVELS, granularity=TENSOR, encode=ALL, shortcuts=MEMBRANE
        )
        _require_bits(options.levels)
        if options.granularity != TENSOR or options.encode != ALL:
            raise UsageError(
                "hardware reads tensors with one threshold each, and only tensors that are "
                "encoded; leave out --granularity and --encode"
            )
        return replace(options, neuron=MULTI_THRESHOLD, encode_input=True)

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:
        """Every network that the front end takes can be expressed."""

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The network in QONNX.

        Claims: it gives the bits of the network with kernels and with function bodies, and of the
        quantised ANN, all with the weights as they are rounded, and in the executor of qonnx where
        that is installed; ANN and SNN agree as far as the options ask.
        """
        bits, most = options.weight_bits, options.most_of_bits
        assert most is not None  # resolved

        def plain(network: Network) -> tuple[PassResult, dict[str, np.ndarray]]:
            graph = infer_shapes(import_model(inline_functions(network, every=True)))
            return plain_layers(graph, quantised.weight_steps, most)

        def with_weights(network: Network, found: dict[str, np.ndarray]) -> Network:
            graph = quantise_weights(import_model(network), found, bits).graph
            return qonnx_network(export_network(graph))

        with steps("plain_layers") as step:
            result, found = plain(quantised.snn)
            step.changes += result.changes
            step.network = snn = function_bodies(export_network(result.graph))
        thresholds = steps.rewrite(
            "multi_threshold",
            lambda: multi_threshold(infer_shapes(import_model(snn)), options.qonnx_form),
        )
        lowered = steps.rewrite(
            "quantise_weights", lambda: quantise_weights(thresholds, found, bits)
        )
        with steps("hardware") as step:
            step.changes += hardware(infer_shapes(lowered))
        written = qonnx_network(export_network(lowered))
        ann, of_ann = plain(quantised.ann)
        # The runtime multiplies by constants in another order than by what it computes first.
        spiking = with_weights(snn, found)
        analog = with_weights(export_network(ann.graph), of_ann)
        runs = Run(written, False), Run(spiking, True), Run(spiking, False), Run(analog, False)
        claims: list[Claim] = [
            BitExact(_EXACT, runs),
            InQonnx(written, analog),
            Agreement(snn, None, options.min_agreement),
        ]
        return Artifact({"": written}, snn, claims)


def _require_bits(levels: int) -> None:
    """Refuse what is no number of bits.

    Raises:
        UsageError: names the nearest.
    """
    if levels > MOST_INT8:
        raise UsageError(f"{levels} levels: neurons of qonnx have at most {MOST_INT8}, 8 bits")
    if (levels + 1) & levels:
        more = 2 ** levels.bit_length() - 1
        raise UsageError(
            f"{levels} levels are no number of bits; use --levels {more // 2} or {more}"
        )
