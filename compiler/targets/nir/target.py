"""Target ``nir``: a network over several timesteps, or one, as a NIR graph (docs/nir.md)."""

from __future__ import annotations

from dataclasses import replace

from ....passes.graph.surgeon import import_model
from ....passes.lowering.function_bodies import function_bodies
from ...errors import UsageError
from ...front_end import Checked, Prepared
from ...options import (
    ACTIVATIONS,
    AUTO,
    DELAYED,
    MULTI_THRESHOLD,
    SCALE,
    SIGNED,
    SPIKES,
    STAIRCASE,
    CompileOptions,
    filled,
)
from ...steps import Steps
from ..onnxruntime import OnnxRuntime
from ..target import Artifact, Quantised
from .package import load_nir, nir_bytes
from .translate import check_operators, summary, to_nir

#: Levels over one timestep.
_FEW = 8


class Nir:
    """See the module's text."""

    name = "nir"

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Defaults are multi-threshold neurons, spikes on shortcuts, and no encoders.

        Over one timestep a neuron of N levels becomes N neurons, so there are few.

        Raises:
            UsageError: the options ask for neurons that are not those of NIR, or ``nir`` is not
                installed.
        """
        load_nir(options.timesteps)  # refused before any long work
        once = options.timesteps == 1
        if options.firing == DELAYED or options.time_axis:
            raise UsageError(
                "a NIR graph has neurons that fire immediately, and no axis of time; leave out "
                "--firing and --time-axis"
            )
        if not once and options.levels not in (None, 1):
            raise UsageError(
                "over several timesteps the neurons of a NIR graph fire at most once in each; "
                "leave out --levels or --timesteps"
            )
        if once and options.neuron in (SCALE, STAIRCASE):
            raise UsageError(
                f"a NIR graph has no {options.neuron} neurons, use multi-threshold ones; leave "
                "out --neuron"
            )
        if options.neuron == SIGNED:
            raise UsageError(
                "the IF neurons of NIR fire no negative spikes; use multi-threshold ones"
            )
        if options.binary_spikes is not None:
            raise UsageError("the spikes of a NIR graph are binary; leave out --binary-spikes")
        if options.neuron in (None, AUTO):
            options = replace(options, neuron=MULTI_THRESHOLD)
        if once:
            options = filled(options, levels=_FEW)
        return filled(options, shortcuts=SPIKES, encode=ACTIVATIONS)

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:
        """Refuse operators that have no counterpart in NIR.

        Raises:
            ModelError: names the node.
        """
        written = {activation.output for activation in prepared.activations}
        check_operators(import_model(prepared.analog), written, options.timesteps)

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The NIR graph; beside it, for verification, the same network as ONNX.

        Raises:
            ModelError: NIR cannot express the network.
        """
        made = OnnxRuntime().lower(quantised, options, steps)
        with steps("to_nir") as step:
            graph = to_nir(function_bodies(quantised.snn), options.timesteps)
            step.changes += summary(graph)
        return Artifact({"": nir_bytes(graph)}, made.snn, made.claims)
