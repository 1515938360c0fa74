"""Target ``standard``: static operators of ONNX alone, for runtimes that know no others."""

from __future__ import annotations

from dataclasses import replace

from ...passes.canonicalise.canonicalise import canonicalise
from ...passes.graph.network import Network
from ...passes.graph.protos import nodes_below
from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.function_bodies import function_bodies
from ...passes.lowering.inline_functions import inline_functions
from ...passes.lowering.set_opset import OpsetError, lowest_opset, require_opset, set_opset
from ...passes.lowering.standard_ops import standard_ops
from ..errors import ModelError, UsageError
from ..front_end import Checked, Prepared
from ..options import ALL, AUTO, MOST_PLACED, OLDEST_OPSET, SCALE, SPIKES, CompileOptions, filled
from ..steps import Steps
from ..verify import Agreement, BitExact, Claim, Run
from .target import Artifact, Quantised

_EXACT = (
    "neurons as standard operators and as functions agree bit for bit, so does the quantised ANN"
)


class Standard:
    """See the module's text."""

    name = "standard"

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Neurons without octaves, which only clip and round, and as many levels as int8 has.

        A level costs these operators nothing. Steps are powers of two where nothing scales them,
        and sums are exact then (``exact_sums.py``): spikes alone have few enough bits for them, so
        the input is encoded, and shortcuts read spikes.

        Raises:
            UsageError: the options ask for what needs operators of our own, or dynamic shapes.
        """
        if options.timesteps > 1 or options.time_axis or options.firing is not None:
            raise UsageError(
                "networks of standard operators have one timestep; leave out --timesteps, "
                "--time-axis and --firing, or use --target onnxruntime"
            )
        if options.binary_spikes is not None:
            raise UsageError(
                "neurons of standard operators fire whole levels; leave out --binary-spikes, or "
                "use --target onnxruntime"
            )
        if options.neuron is None and options.calibrator == AUTO:
            options = replace(options, neuron=SCALE, calibrator="mse")
        scaled = options.search_scale or options.scale != 1
        options = filled(options, power_of_two=not scaled)
        if options.power_of_two:
            options = filled(options, shortcuts=SPIKES, encode=ALL)
            options = replace(options, encode_input=options.encode == ALL)
        return filled(options, neuron=SCALE, levels=MOST_PLACED)

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:  # noqa: ARG002
        """Refuse operators of other domains, and an opset that the network cannot have.

        Raises:
            ModelError: names the node.
        """
        network = inline_functions(prepared.analog, every=True)
        for node in nodes_below(network.proto.graph):
            if node.domain not in ("", "ai.onnx"):
                raise ModelError(
                    f"{node.op_type} {node.name} is an operator of the domain '{node.domain}', "
                    "which not every runtime knows; use --target onnxruntime, or export the model "
                    "in standard operators"
                )

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The network in standard operators.

        Claims: it gives the bits of the network with kernels and with function bodies, and of the
        quantised ANN; ANN and SNN agree as far as the options ask.

        Raises:
            ModelError: an operator is not the same at the opset asked for.
        """
        whole = inline_functions(quantised.snn, every=True)
        graph = import_model(whole)
        if whole is not quantised.snn:  # the bodies of functions are as their authors wrote them
            inlined = graph
            graph = steps.rewrite("canonicalise", lambda: canonicalise(inlined))
        before = graph
        graph = steps.rewrite("standard_ops", lambda: standard_ops(before))
        with steps("set_opset") as step:
            step.network = snn = _at_opset(_slim(export_network(graph)), options.opset)
            step.changes.append(f"opset {snn.proto.opset_import[0].version}")
        kernels = function_bodies(quantised.snn)
        runs = (Run(snn, False), Run(kernels, True), Run(kernels, False), Run(quantised.ann, False))
        claims: list[Claim] = [
            BitExact(_EXACT, runs),
            Agreement(snn, None, options.min_agreement),
        ]
        return Artifact({"": snn}, snn, claims)


def _slim(network: Network) -> Network:
    """Without what follows from the rest: shapes between operators, and unused domains."""
    model = network.proto
    del model.graph.value_info[:]
    used = {node.domain for node in nodes_below(model.graph)}
    kept = [o for o in model.opset_import if o.domain in {"", "ai.onnx"} | used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return network


def _at_opset(network: Network, asked: int | None) -> Network:
    """At the opset asked for, or the lowest."""
    opset = asked or lowest_opset(network, OLDEST_OPSET)
    try:
        require_opset(network, opset)
    except OpsetError as error:
        raise ModelError(f"{error}; leave out --opset, or give another") from error
    return set_opset(network, opset)
