"""Many random neurons over T steps and in one, through the kernels.

``python tests/timesteps.py`` prints how many differ outside the premise (docs/equivalence.md).
"""

from __future__ import annotations

import sys

import numpy as np
from onnx import TensorProto, helper
from operators import session
from snn_compile.compiler.evaluation.level_bound import Levels
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE


def spikes(cases, steps):
    """Spikes in T steps and the level of one, for neurons of several kinds in one session.

    Args:
        cases: for each kind its Levels, x [T, neurons] and theta_M [neurons], float32.
        steps: T.

    Returns:
        For each kind the spikes of every step [T, neurons], and the levels [neurons].
    """
    nodes, inputs, outputs, feed = [], [], [], {}
    for i, (levels, x, theta) in enumerate(cases):
        mean = x.sum(axis=0, keepdims=True) / np.float32(steps)
        for op, factor, suffix, values in (
            (INTEGRATE_FIRE, 1, "steps", x),
            (MULTI_THRESHOLD_FIRE, steps, "one", mean),
        ):
            attributes = {
                "levels_pos": factor * levels.positive,
                "levels_neg": factor * levels.negative,
                "v0": levels.v0,
            }
            scale = theta
            if op is INTEGRATE_FIRE:
                attributes["timesteps"] = steps
                scale = theta * np.float32(steps)
            names = [f"{name}.{suffix}.{i}" for name in ("x", "theta", "y")]
            nodes.append(
                helper.make_node(op.name, names[:2], names[2:], domain=DOMAIN, **attributes)
            )
            feed |= {names[0]: values, names[1]: scale}
            inputs += [(names[0], [None, None]), (names[1], [None])]
            outputs += [(names[2], [None, None])]
    declared = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *declared)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    values = session(model, library=True).run(None, feed)
    found = []
    for (_, _, theta), many, one in zip(cases, values[::2], values[1::2], strict=True):
        fired = np.rint(many / (theta * np.float32(steps)))
        found.append((fired, np.rint(one[0] / theta)))
    return found


def dyadic(rng, levels, steps, neurons, low, high):
    """A kind of neurons with inputs in [low, high] theta_IF, all sums and means exact in float32.

    theta_M is b q and an input T a q, with integers a, b and q a power of two.
    """
    unit = np.ldexp(np.float32(1), rng.integers(-12, 3, neurons))
    threshold = rng.integers(8, 1000 // max(levels.positive, levels.negative), neurons)
    counts = rng.integers(
        np.ceil(low * threshold), np.floor(high * threshold) + 1, (steps, neurons)
    )
    x = (steps * counts * unit).astype(np.float32)
    return levels, x, (threshold * unit).astype(np.float32)


def differing(rng, draw, steps, neurons=200_000, v0=0.5):
    """Share of binary neurons of theta_IF = 1 whose spikes differ, and the largest difference."""
    x = draw(rng, (steps, neurons)).astype(np.float32)
    theta = np.full(neurons, 1 / steps, np.float32)
    ((fired, one),) = spikes([(Levels(1, 0, v0), x, theta)], steps)
    differences = np.abs(fired.sum(axis=0) - one)
    return (differences > 0).mean(), int(differences.max())


#: Inputs in units of theta_IF that leave the premise.
OUTSIDE = {
    "uniform in [0, 2]": lambda rng, shape: rng.uniform(0, 2, shape),
    "uniform in [-1, 1]": lambda rng, shape: rng.uniform(-1, 1, shape),
    "normal, mean 0.2, deviation 0.6": lambda rng, shape: rng.normal(0.2, 0.6, shape),
}


def table() -> str:
    """Share of neurons that differ, and the largest difference."""
    rng = np.random.default_rng(0)
    times = (2, 4, 8, 32)
    rows = [["inputs, in units of theta", *(f"T = {steps}" for steps in times)]]
    rows.append(["---"] * len(rows[0]))
    for name, draw in OUTSIDE.items():
        found = [differing(rng, draw, steps) for steps in times]
        rows.append([name, *(f"{share:.1%}, {largest}" for share, largest in found)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(table())
