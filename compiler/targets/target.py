"""What a target is: what it writes for a compiled network, and what it promises of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx

from ...passes.graph.graph import METADATA_PREFIX
from ...passes.graph.network import Network, check
from ..errors import ModelError
from ..front_end import Checked, Prepared
from ..options import CompileOptions
from ..steps import Steps
from ..verify import Claim


@dataclass(frozen=True)
class Quantised:
    """A calibrated network, in two forms that give the same bits.

    Attributes:
        ann: the quantised ANN: quantisation behind every activation, in standard operators.
        snn: the spiking network of one timestep: neurons in place of both.
        weight_steps: of weights that calibration has rounded, their step per output channel,
            float32 [O], by the weight's name.
    """

    ann: Network
    snn: Network
    weight_steps: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """What a target makes of a compiled network.

    Attributes:
        files: what is written, by the suffix that follows the name of the output; "" is the output
            itself.
        snn: the spiking network as ONNX: what is verified and reported on.
        claims: what the target promises; each compilation checks them.
    """

    files: Mapping[str, Network | bytes]
    snn: Network
    claims: list[Claim]

    def sign(self, provenance: Mapping[str, str]) -> None:
        """Write how the model was made beside the user's metadata, and check the model.

        Raises:
            ModelError: it is invalid; then the source contradicts itself.
        """
        written = [file for file in self.files.values() if isinstance(file, Network)]
        models = {id(network): network.proto for network in (self.snn, *written)}.values()
        for key, value in provenance.items():
            for model in models:
                model.metadata_props.add(key=METADATA_PREFIX + key, value=value)
        try:
            for model in models:
                check(model)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ModelError(
                "the model contradicts itself, as is seen once its constants are known: "
                f"{error}; export it with the output shapes that it has"
            ) from error


class Target(Protocol):
    """A back end of the compiler."""

    @property
    def name(self) -> str:
        """As ``--target`` has it."""
        ...

    def resolve(self, options: CompileOptions) -> CompileOptions:
        """The options with this target's defaults, where they differ from those of others.

        Args:
            options: as the user gives them, their values checked.

        Raises:
            UsageError: options do not go with the target, or a package is not installed.
        """

    def check(self, prepared: Prepared | Checked, options: CompileOptions) -> None:
        """Refuse early, before calibration, what is known to be refused later.

        Args:
            prepared: by the front end, or as far as it comes without calibration.
            options: resolved.

        Raises:
            ModelError: the target cannot express the network.
        """

    def lower(self, quantised: Quantised, options: CompileOptions, steps: Steps) -> Artifact:
        """The network in the target's form.

        Raises:
            ModelError: the target cannot express the network.
        """
