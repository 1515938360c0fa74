"""Target ``onnxruntime``: neurons as custom operators, each with its definition as a function.

Any ONNX Runtime executes the file: by our kernels where the operator library is registered, by the
functions elsewhere. Over several timesteps the network is unrolled in time, and spikes of several
levels become planes of binary spikes on request.
"""

from __future__ import annotations

from ...passes.graph.network import Network
from ...passes.graph.surgeon import export_network, import_model
from ...passes.lowering.function_bodies import function_bodies
from ...passes.lowering.spatial_to_temporal import spatial_to_temporal
from ..front_end import Checked, Prepared
from ..options import CompileOptions
from ..running.planes import with_planes, without_planes
from ..steps import Steps
from ..verify import Agreement, BitExact, Claim, Run
from .target import Artifact, Quantised

_EXACT = "agree bit for bit"


class OnnxRuntime:
    """See the module's text."""

    name = "onnxruntime"

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """Nothing is particular to it."""
        return options

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:
        """Every network that the front end takes can be expressed."""

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The network with function bodies.

        Claims: the quantised ANN and the network of one timestep give the same bits, so do kernels
        and bodies of what is written, and ANN and SNN agree as far as the options ask.
        """
        timesteps = options.timesteps
        graph = import_model(quantised.snn)
        if timesteps > 1:
            before = graph
            graph = steps.rewrite(
                "spatial_to_temporal",
                lambda: spatial_to_temporal(
                    before,
                    timesteps,
                    delayed=not options.stepwise,
                    time_axis=options.time_axis,
                ),
            )
        kind = options.binary_spikes
        if kind is not None:
            levels = graph
            graph = steps.rewrite("binary_spikes", lambda: with_planes(levels, kind))
        with steps("function_bodies") as step:
            step.network = snn = function_bodies(export_network(graph))
        plain = without_planes(snn)
        axis = timesteps if options.time_axis else None
        claims: list[Claim] = [*_proofs(quantised, plain, snn, timesteps, axis)]
        claims.append(Agreement(plain, axis, options.min_agreement))
        return Artifact({"": snn}, snn, claims)


def _proofs(
    quantised: Quantised, plain: Network, snn: Network, timesteps: int, axis: int | None
) -> list[BitExact]:
    if timesteps == 1:
        runs = (Run(quantised.ann, False), Run(snn, True), Run(snn, False))
        return [BitExact(f"quantised ANN and SNN {_EXACT}", runs)]
    spatial = function_bodies(quantised.snn)
    one_step = (Run(quantised.ann, False), Run(spatial, True), Run(spatial, False))
    over_time = (Run(plain, True), Run(snn, True), Run(snn, False))
    return [
        BitExact(f"quantised ANN and SNN of one timestep {_EXACT}", one_step),
        BitExact(f"runs of the SNN over time {_EXACT}", over_time, axis),
    ]
