"""Target ``int8``: spikes and weights as integers of 8 bits, for any runtime's integer kernels."""

from __future__ import annotations

from dataclasses import replace

from onnx import ModelProto

from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.inline_functions import inline_functions
from ...passes.lowering.quantise_linear import quantise_linear
from ...runtime_ops.definition import DOMAIN
from ..errors import UsageError
from ..front_end import Checked, Prepared
from ..options import (
    ALL,
    AUTO,
    FULL,
    MEMBRANE,
    MOST_INT8,
    MULTI_THRESHOLD,
    SPIKES,
    TENSOR,
    CompileOptions,
    filled,
)
from ..steps import Steps
from ..verify import Agreement, Claim, Integers, NoOverflow, SameParameters, SameSpikes
from .target import Artifact, Quantised


class Int8:
    """See the module's text."""

    name = "int8"

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Multi-threshold neurons per tensor, of 255 levels, and the input is encoded.

        Raises:
            UsageError: the options ask for something that 8 bits cannot be.
        """
        if options.timesteps > 1 or options.time_axis or options.firing is not None:
            raise UsageError(
                "networks of int8 have one timestep; leave out --timesteps, --time-axis and "
                "--firing"
            )
        if options.neuron not in (None, AUTO, MULTI_THRESHOLD):
            raise UsageError(
                f"the spikes of int8 are multiples of one threshold, {options.neuron} neurons have "
                "other levels; leave out --neuron"
            )
        if options.binary_spikes is not None:
            raise UsageError("the spikes of int8 are integers; leave out --binary-spikes")
        if options.levels_budget or options.search_scale:
            raise UsageError(
                "neurons of int8 share their levels; leave out --levels-budget and --search-scale"
            )
        options = filled(options, levels=MOST_INT8, granularity=TENSOR, encode=ALL)
        if options.levels > MOST_INT8:
            raise UsageError(
                f"{options.levels} levels: 8 bits hold {MOST_INT8} besides silence; "
                "use fewer --levels"
            )
        if options.granularity != TENSOR or options.encode != ALL:
            raise UsageError(
                "kernels of integers read tensors with one threshold each, and only tensors that "
                "are encoded; leave out --granularity and --encode"
            )
        shortcuts = SPIKES if options.levels == MOST_INT8 else MEMBRANE
        options = filled(options, shortcuts=shortcuts)
        return replace(options, neuron=MULTI_THRESHOLD, encode_input=True)

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:
        """Every network that the front end takes can be expressed."""

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The network of integers.

        Claims: its parameters are the float network's, rounded; no sum overflows, with safe weights
        on no processor; the runtime's kernels give what a reference gives; its spikes are counted
        against the float network's; ANN and SNN agree as far as the options ask.
        """
        full = options.int8_weights == FULL
        graph = import_model(quantised.snn)
        graph = steps.rewrite(
            "quantise_linear",
            lambda: quantise_linear(graph, quantised.weight_steps, full),
        )
        with steps("inline_functions") as step:
            step.network = snn = inline_functions(export_network(graph))
        _leave_out_what_can_be_inferred(snn.proto)
        claims: list[Claim] = [
            SameParameters(snn, quantised.snn),
            NoOverflow(snn, pairs=not full),
            Integers(snn),
            SameSpikes(snn, quantised.snn),
            Agreement(snn, None, options.min_agreement),
        ]
        return Artifact({"": snn}, snn, claims)


def _leave_out_what_can_be_inferred(model: ModelProto) -> None:
    """Small files: shapes between operators follow from the rest; no operator is of our domain."""
    del model.graph.value_info[:]
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
