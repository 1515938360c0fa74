"""Target ``nir``: a network over several timesteps as a NIR graph (docs/nir.md)."""

from __future__ import annotations

from ....passes.graph.surgeon import import_model
from ....passes.lowering.function_bodies import function_bodies
from ...errors import UsageError
from ...front_end import Prepared
from ...options import CompileOptions
from ...steps import Steps
from ..onnxruntime import OnnxRuntime
from ..target import Artifact, Quantised
from .package import check_package, nir_bytes
from .translate import check_operators, summary, to_nir


class Nir:
    """See the module's text."""

    name = "nir"

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Refuse what is not NIR's, early.

        Raises:
            UsageError: ``nir`` is not installed, or the options ask for neurons that are not those
                of NIR.
        """
        check_package()
        calibration = options.calibration
        if not calibration.stepwise or calibration.levels != 1 or options.time_axis:
            raise UsageError(
                "a NIR graph has neurons that fire immediately, and at most once in each of "
                "several timesteps; give --timesteps, and leave out --levels, --firing and "
                "--time-axis"
            )
        if calibration.signed:
            raise UsageError(
                "the IF neurons of NIR fire no negative spikes; use multi-threshold ones"
            )
        if options.binary_spikes is not None:
            raise UsageError("the spikes of a NIR graph are binary; leave out --binary-spikes")
        return options

    def check(self, prepared: Prepared) -> None:
        """Refuse operators that have no counterpart in NIR.

        Raises:
            ModelError: names the node.
        """
        written = {activation.output for activation in prepared.activations}
        check_operators(import_model(prepared.analog), written)

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The NIR graph; beside it, for verification, the same network as ONNX.

        Raises:
            ModelError: NIR cannot express the network.
        """
        made = OnnxRuntime().lower(quantised, options, steps)
        with steps("to_nir") as step:
            graph = to_nir(function_bodies(quantised.snn), options.calibration.timesteps)
            step.changes += summary(graph)
        return Artifact({"": nir_bytes(graph)}, made.snn, made.claims)
