"""Level flips, on networks in which graph optimisation is known to change levels.

The convolution adds 1e8 and the sum behind it takes that away again: in float32 the potential is
lost. Optimised, the two constants are one, and it is not.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_model
from onnx import numpy_helper
from snn_compile.compiler.evaluation import flips
from snn_compile.compiler.evaluation.flips import level_flips
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.samples.base import input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.graph.network import detach

NEURON = "ai.snn.MultiThresholdFire <levels_pos = 9, levels_neg = 9>"
LAYER = f"""a = Conv (x, w, big) h = Add (a, small)
            [neuron] {{}} = {NEURON} (h, theta)"""
PLAIN = f"g (float[N,1,2,2] x) => (float[N,1,2,2] y) {{{{ {LAYER.format('y')} }}}}"
BRANCH = f"""g (float[N,1,2,2] x, bool[N] c) => (float[N,1,2,2] y) {{{{
    first = Constant <value = int64[1] {{{{0}}}}> ()
    one = Gather (c, first)
    s = Squeeze (one)
    y = If (s) <
        then_branch = yes () => (float[N,1,2,2] p) {{{{ {LAYER.format("p")} }}}},
        else_branch = no () => (float[N,1,2,2] q) {{{{ q = Neg (x) }}}}
    > }}}}"""
IMAGES = np.float32([[0.2, 0.6, -0.6, 3], [0.9, 0.1, 0, -0.1]]).reshape(2, 1, 2, 2)


def network(text):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>' + text.format()
    )
    values = {"w": np.ones((1, 1, 1, 1)), "big": [1e8], "small": np.full((1, 1, 1, 1), -1e8)}
    for name, value in (values | {"theta": 1.0}).items():
        array = np.asarray(value, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def flipped(tmp_path, model, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    samples = FileSamples(tmp_path / "data.npz", input_specs(model))
    return level_flips(detach(model), samples, Progress())


def test_flips_are_the_levels_that_optimisation_changes(tmp_path):
    model = network(PLAIN)
    optimised = run_model(model, {"x": IMAGES}, library=True, optimise=True)[0]
    plain = run_model(model, {"x": IMAGES}, library=True)[0]
    np.testing.assert_array_equal(optimised.ravel(), [0, 1, -1, 3, 1, 0, 0, 0])
    np.testing.assert_array_equal(plain, 0)
    shares, outputs = flipped(tmp_path, model, x=IMAGES)
    assert shares == {"neuron": 4 / 8}
    assert (outputs[0].name, outputs[0].max_abs) == ("y", 3)
    assert outputs[0].relative_l2 == 1


def test_nothing_flips_where_optimisation_changes_nothing(tmp_path):
    model = network(PLAIN)
    for tensor in model.graph.initializer:
        if tensor.name in ("big", "small"):
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    shares, outputs = flipped(tmp_path, model, x=IMAGES)
    assert shares == {"neuron": 0}
    assert (outputs[0].max_abs, outputs[0].cosine) == (0, 1)


@pytest.mark.parametrize(
    ("taken", "expected"), [([True, False], {"neuron": 3 / 4}), ([False, False], {})]
)
def test_a_neuron_in_a_branch_counts_where_it_is_taken(tmp_path, taken, expected):
    shares, _ = flipped(tmp_path, network(BRANCH), x=IMAGES, c=np.array(taken))
    assert shares == expected


def test_a_neuron_in_a_loop_is_not_seen(tmp_path):
    model = network(f"""g (float[N,1,2,2] x) => (float[N,1,2,2] y) {{{{
        count = Constant <value = int64 {{{{1}}}}> ()
        go = Constant <value = bool {{{{1}}}}> ()
        y = Loop (count, go, x) <body = b (int64 i, bool c, float[N,1,2,2] s)
            => (bool c2, float[N,1,2,2] s2) {{{{
                c2 = Identity (c) [neuron] s2 = {NEURON} (s, theta) }}}}>
        }}}}""")
    shares, outputs = flipped(tmp_path, model, x=IMAGES)
    assert shares == {}
    assert outputs[0].max_abs == 0


def test_few_samples_are_run_one_at_a_time(tmp_path, monkeypatch):
    sizes = []

    def counting(session, feed, what):
        sizes.append(len(feed["x"]))
        return run(session, feed, what)

    run = flips.run_samples
    monkeypatch.setattr(flips, "run_samples", counting)
    flipped(tmp_path, network(PLAIN), x=np.repeat(IMAGES, 50, axis=0))
    assert sizes == [1] * 2 * flips.SAMPLES
    sizes.clear()
    model = network(PLAIN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    flipped(tmp_path, model, x=np.repeat(IMAGES, 50, axis=0))
    assert sizes == [3] * 2 * 3
