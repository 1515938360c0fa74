"""What a model holds, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from .data import NeuronReport


@dataclass
class Inspection:
    """What is in a file.

    Attributes:
        file: its name.
        kind: "ONNX" or "NIR".
        bytes: size of the model, external data included.
        inputs: each with element type and shape.
        outputs: likewise.
        operators: how many there are of each, bodies included; those of functions are not.
        neurons: of a compiled model, as they say of themselves.
        provenance: what the compiler wrote of how the model was made, by key.
        metadata: all other entries.
        needs: what a runtime needs for it, a sentence each.
    """

    file: str
    kind: str
    bytes: int
    inputs: list[str]
    outputs: list[str]
    operators: dict[str, int]
    neurons: list[NeuronReport] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
