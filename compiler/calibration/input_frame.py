"""What a network itself says of the scale of an input: the constants with which it begins.

Many networks scale what they are given before they use it: ``x / 255``, ``(x - mean) / std``,
``x * 2 - 1``. Behind these operators values have about the scale of 1. So where z = u x + v is
computed of an input x, standard normal z are made up as x = (z - v) / u.

1. Followed are Add, Sub, Mul and Div with a constant, one after the other, from the input on; Cast
   between them, and whatever moves values. Nothing else may read the input or what is in between.
2. A constant has one value, or one for each channel or feature: it varies along one axis (what
   varies along more, such as an encoding of positions, is no scaling). Once values have been
   moved, the mean of such a constant stands for it.
3. The result has to be finite, and u not zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from ...passes.analysis.operators import Inputs, properties
from ...passes.graph.network import Network, constants_of
from ..samples.base import InputSpec
from ..samples.synthetic import Frame


def input_frame(network: Network, spec: InputSpec) -> Frame:
    """The frame in which an input of floats is about standard normal behind its scaling.

    Args:
        network: in canonical form.
        spec: one of its inputs.

    Returns:
        The plain frame where the network does not begin with a scaling.
    """
    constants = constants_of(network)
    readers: dict[str, list[NodeProto]] = {}
    for node in network.proto.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    factor, term = np.ones((), np.float64), np.zeros((), np.float64)
    name, moved = spec.name, False
    while len(readers.get(name, [])) == 1:
        node = readers[name][0]
        moves = properties(node.op_type).moves is Inputs.FIRST and len(node.output) == 1
        if moves and node.input[0] == name:
            moved = True
        elif node.op_type != "Cast":
            step = _affine(node, name, constants, None if moved else spec)
            if step is None:
                break
            factor, term = factor * step[0], term * step[0] + step[1]
        name = node.output[0]
    with np.errstate(all="ignore"):
        unit, centre = np.float32(1 / factor), np.float32(-term / factor)
    if not (np.isfinite(unit).all() and np.isfinite(centre).all() and unit.all()):
        return Frame()
    return Frame(np.asarray(centre), np.asarray(unit))


def _affine(
    node: NodeProto, name: str, constants: Mapping[str, np.ndarray], spec: InputSpec | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """What an operator multiplies with and then adds; None if it is no scaling."""
    if node.domain not in ("", "ai.onnx") or len(node.input) != 2:
        return None
    place = 1 if node.input[0] == name else 0
    values = constants.get(node.input[place])
    if values is None or values.dtype.kind != "f" or not values.size:
        return None
    if values.size != max(values.shape, default=1):
        return None
    values = values.astype(np.float64)
    if values.size == 1 or spec is None:
        values = values.mean()
    elif not _goes_with(values.shape, spec.shape):
        return None
    one, zero = np.ones(()), np.zeros(())
    with np.errstate(all="ignore"):
        if node.op_type == "Add":
            return one, values
        if node.op_type == "Sub":
            return (one, -values) if place else (-one, values)
        if node.op_type == "Mul":
            return values, zero
        if node.op_type == "Div" and place:
            return 1 / values, zero
    return None


def _goes_with(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a constant is broadcast to samples of an input, the batch axis first."""
    if len(shape) > len(wanted):
        return False
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    fits = all(own in (1, dim) for own, dim in pairs)
    return fits and (len(shape) < len(wanted) or shape[0] == 1)
