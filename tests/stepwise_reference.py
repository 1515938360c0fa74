"""A network of multi-threshold neurons computed step by step, one array per step and no time axis.

It is what ``spatial_to_temporal`` is compared with: neurons become integrate-and-fire neurons, an
operator that is affine in what depends on time reads a step, any other the mean of all steps so
far.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

#: Affine in all inputs together, in one of several, and in the first.
TOGETHER = {"Add", "Sub", "Sum", "Mean", "Concat"}
ONE = {"MatMul", "Mul", "Einsum"}
FIRST = {
    *("Conv", "Gemm", "BatchNormalization", "AveragePool", "GlobalAveragePool", "Div", "Neg"),
    *("Identity", "Reshape", "Transpose", "Expand", "Tile", "Trilu", "Pad", "Flatten", "Split"),
    *("Gather", "GatherND", "GatherElements", "Squeeze", "Unsqueeze", "Slice", "CumSum", "Cast"),
    *("ReduceMean", "ReduceSum", "Dropout"),
}


@dataclass
class Timed:
    """A tensor that depends on time: T steps, or T running means."""

    values: list[np.ndarray]
    mean: bool = False

    def steps(self) -> list[np.ndarray]:
        if not self.mean:
            return self.values
        sums = [value * (at + 1) for at, value in enumerate(self.values)]
        return [sums[0], *(now - before for before, now in pairwise(sums))]

    def means(self) -> list[np.ndarray]:
        if self.mean:
            return self.values
        return [np.mean(self.values[: at + 1], axis=0) for at in range(len(self.values))]

    def last(self) -> np.ndarray:
        """The mean over all steps."""
        return self.means()[-1]


class _Evaluator:
    def __init__(self, model: ModelProto, node: NodeProto) -> None:
        graph = GraphProto(name="one", node=[node])
        graph.input.extend(helper.make_empty_tensor_value_info(n) for n in set(node.input) if n)
        graph.output.extend(helper.make_empty_tensor_value_info(n) for n in node.output if n)
        one = helper.make_model(graph, opset_imports=model.opset_import)
        one.functions.extend(model.functions)
        self._run = ReferenceEvaluator(one)
        self._inputs = list(node.input)

    def __call__(self, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
        given = zip(self._inputs, arrays, strict=True)
        feed = {name: array for name, array in given if array is not None}
        return [np.asarray(array) for array in self._run.run(None, feed)]


def stepwise(model: ModelProto, feed: dict[str, np.ndarray], steps: int) -> list[np.ndarray]:
    """What the network over so many timesteps gives: means over all steps.

    Args:
        model: with MultiThresholdFire neurons, whose levels the steps share.
        feed: presented at every step.
        steps: T.
    """
    held: dict[str, np.ndarray | Timed | None] = {"": None, **feed}
    held.update((t.name, numpy_helper.to_array(t)) for t in model.graph.initializer)
    for node in model.graph.node:
        inputs = [held[name] for name in node.input]
        if node.domain == "ai.snn":
            held[node.output[0]] = _fire(node, inputs[0], inputs[1], steps)
            continue
        evaluate = _Evaluator(model, node)
        timed = [at for at, value in enumerate(inputs) if isinstance(value, Timed)]
        if node.op_type in ("Shape", "Size"):
            inputs = [value.values[0] if isinstance(value, Timed) else value for value in inputs]
            timed = []
        if not timed:
            held.update(zip(node.output, evaluate(inputs), strict=True))
            continue
        mean = not _is_affine(node, timed) or all(inputs[at].mean for at in timed)
        results = []
        for step in range(steps):
            now = [
                (value.means() if mean else value.steps())[step]
                if isinstance(value, Timed)
                else value
                for value in inputs
            ]
            results.append(evaluate(now))
        for position, name in enumerate(node.output):
            held[name] = Timed([result[position] for result in results], mean)
    outputs = [held[value.name] for value in model.graph.output]
    return [value.last() if isinstance(value, Timed) else value for value in outputs]


def _is_affine(node: NodeProto, timed: list[int]) -> bool:
    if node.op_type in TOGETHER:
        return True
    return (node.op_type in ONE and len(timed) == 1) or (node.op_type in FIRST and timed == [0])


def _fire(node: NodeProto, x: np.ndarray | Timed, theta: np.ndarray, steps: int) -> Timed:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    currents = x.steps() if isinstance(x, Timed) else [x] * steps
    theta, axis = theta * np.float32(steps), attributes.get("axis", 1) % currents[0].ndim
    if theta.size > 1:
        theta = theta.reshape(-1, *[1] * (currents[0].ndim - 1 - axis))
    limits = [attributes.get(name, 0) // steps for name in ("levels_pos", "levels_neg")]
    rest, fired = np.zeros_like(currents[0]), []
    for current in currents:
        u = rest + current
        counted = np.floor(np.abs(u) / theta + np.float32(attributes.get("v0", 0.5)))
        spikes = np.sign(u) * np.minimum(counted, np.where(u >= 0, *limits))
        fired.append((theta * spikes).astype(np.float32))
        rest = u - fired[-1]
    return Timed(fired)
