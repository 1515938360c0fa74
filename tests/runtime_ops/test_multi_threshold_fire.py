"""MultiThresholdFire: the function body is the specification, everything else agrees with it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from operators import bits, operator_model, session
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE

SPECIAL = np.array(
    [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 1.0, -1.0],
    np.float32,
)


def fire_model(theta, *, theta_is_input=False, **options):
    """A model of one neuron."""
    at_run_time = ["theta"] if theta_is_input else []
    return operator_model(
        MULTI_THRESHOLD_FIRE, {"theta": theta}, at_run_time=at_run_time, **options
    )


def formula(x, theta, levels_pos, levels_neg, v0):
    """The design's formula, written a third time and differently, in float32."""
    k = np.sign(x) * np.minimum(
        np.floor(np.abs(x) / theta + np.float32(v0)), np.where(x >= 0, levels_pos, levels_neg)
    ).astype(np.float32)
    return np.float32(theta) * k


def assert_kernel_equals_body(x, theta, **attributes):
    model = fire_model(theta, **attributes)
    kernel = session(model, library=True).run(None, {"X": x})[0]
    body = session(model, library=False).run(None, {"X": x})[0]
    assert kernel.shape == x.shape
    np.testing.assert_array_equal(bits(kernel), bits(body))
    return kernel


ATTRIBUTES = [
    {"levels_pos": 32},
    {"levels_pos": 1, "v0": 0.0},
    {"levels_pos": 4, "levels_neg": 7, "v0": 0.25},
    {"levels_pos": 0, "levels_neg": 3, "v0": 0.0},
    {"levels_pos": 1 << 24, "v0": 0.99999994},
]


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_values_follow_the_formula(attributes):
    x = np.random.default_rng(0).normal(0, 5, 4096).astype(np.float32)
    attributes = {**MULTI_THRESHOLD_FIRE.defaults, **attributes}
    y = session(fire_model(0.7, **attributes), library=False).run(None, {"X": x})[0]
    expected = formula(
        x, np.float32(0.7), attributes["levels_pos"], attributes["levels_neg"], attributes["v0"]
    )
    np.testing.assert_array_equal(y, expected)
    assert len(np.unique(y)) > 1


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
@pytest.mark.parametrize(
    ("shape", "theta_shape", "axis"),
    [
        ((7, 9, 33), (), 1),
        ((7, 9, 33), (9,), 1),
        ((7, 9, 33), (33,), -1),
        ((7, 9, 33), (7,), 0),
        ((3, 1, 5), (1,), 1),
        ((5,), (1,), 1),
        ((), (), 1),
        ((2, 3, 0), (3,), 1),
        ((0, 3), (), 1),
    ],
    ids=str,
)
def test_kernel_equals_body_bit_for_bit(attributes, shape, theta_shape, axis):
    rng = np.random.default_rng(1)
    x = np.asarray(rng.normal(0, 8, shape), np.float32)
    if x.size > len(SPECIAL):
        x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    theta = rng.uniform(0.05, 3, theta_shape).astype(np.float32)
    assert_kernel_equals_body(x, theta, axis=axis, **attributes)


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_bulk_of_random_bit_patterns(attributes):
    """Every kind of float32 there is, more than one parallel chunk of them, 1 and 2 threads."""
    raw = np.random.default_rng(2).integers(0, 2**32, 1_000_000, np.uint32)
    x = raw.view(np.float32)
    for theta in (1.0, 0.1, 1e-38, 1e25 if attributes["levels_pos"] < 100 else 1e20):
        model = fire_model(theta, **attributes)
        body = session(model, library=False).run(None, {"X": x})[0]
        for threads in (1, 2):
            kernel = session(model, library=True, threads=threads).run(None, {"X": x})[0]
            np.testing.assert_array_equal(bits(kernel), bits(body))


@pytest.mark.parametrize("length", range(35))
def test_every_partial_vector_length(length):
    x = np.linspace(-4, 4, length).astype(np.float32)
    assert_kernel_equals_body(x, 0.5, levels_pos=4, levels_neg=2)
    assert_kernel_equals_body(x, 0.5, levels_pos=4)


@pytest.mark.parametrize("v0", [0.0, 0.5])
@pytest.mark.parametrize("theta", [1.0, 0.1, 1 / 3])
def test_ties_and_their_neighbours(theta, v0):
    """Inputs on the thresholds, one float below and one above; equality fires."""
    theta = np.float32(theta)
    k = np.arange(1, 40, dtype=np.float32)
    ties = (k - np.float32(v0)) * theta
    x = np.concatenate(
        [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(99))]
    )
    y = assert_kernel_equals_body(
        np.concatenate([x, -x]), theta, levels_pos=32, levels_neg=32, v0=v0
    )
    if theta == 1:
        np.testing.assert_array_equal(y[: len(k)], np.minimum(k, 32))
    if theta == 1 and v0 == 0:  # with v0, |x| + v0 itself may round up to the tie
        np.testing.assert_array_equal(y[len(k) : 2 * len(k)], np.minimum(k - 1, 32))


def test_special_values():
    y = assert_kernel_equals_body(SPECIAL, 0.5, levels_pos=3, levels_neg=2)
    assert np.isnan(y[2:4]).all()
    np.testing.assert_array_equal(y[[4, 5, 9, 10]], [1.5, -1.0, 1.5, -1.0])
    silent = y[[0, 1, 6, 7, 8]]
    np.testing.assert_array_equal(bits(silent), 0)  # +0, not -0


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    data=st.data(),
    levels_pos=st.integers(0, 64),
    levels_neg=st.integers(0, 64),
    v0=st.floats(0, 1, exclude_max=True, width=32),
)
def test_kernel_equals_body_on_any_layout(shape, data, levels_pos, levels_neg, v0):
    if levels_pos + levels_neg == 0:
        levels_pos = 1
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 4, shape).astype(np.float32)
    channels = shape[axis]
    per_channel = data.draw(st.booleans()) and channels > 0
    theta = rng.uniform(1e-3, 2, channels if per_channel else ()).astype(np.float32)
    assert_kernel_equals_body(
        x, theta, axis=axis, levels_pos=levels_pos, levels_neg=levels_neg, v0=v0
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("v0", [0.0, 0.5])
def test_equals_the_mean_of_an_integrate_and_fire_neuron(steps, v0):
    """T steps, threshold T * theta, reset by subtraction, constant input in [0, T * theta].

    Inputs and thetas are multiples of 2^-12, so that the simulation itself is exact.
    """
    theta = 0.25
    ceiling = steps * theta
    grid = np.random.default_rng(0).integers(0, int(ceiling * 4096) + 1, 10_000)
    x = grid.astype(np.float32) / np.float32(4096)
    potential = np.full_like(x, v0 * ceiling)
    fired = np.zeros_like(x)
    for _ in range(steps):
        potential += x
        spike = potential >= ceiling
        fired += spike
        potential -= ceiling * spike
    y = session(fire_model(theta, levels_pos=steps, v0=v0), library=True).run(None, {"X": x})[0]
    np.testing.assert_array_equal(y, ceiling * fired / steps)


@pytest.mark.parametrize("opset", [15, 17, 21])
def test_body_runs_in_the_reference_evaluator(opset):
    x = np.random.default_rng(3).normal(0, 3, (4, 5, 6)).astype(np.float32)
    model = fire_model([0.1, 0.2, 0.3, 0.4, 0.5], opset=opset, levels_pos=8, levels_neg=3)
    reference = ReferenceEvaluator(model).run(None, {"X": x})[0]
    np.testing.assert_array_equal(
        bits(reference), bits(session(model, library=True).run(None, {"X": x})[0])
    )


def test_left_out_attributes_take_the_defaults():
    x = np.linspace(-3, 3, 50).astype(np.float32)
    explicit = fire_model(0.5)
    implicit = fire_model(0.5, levels_pos=None, levels_neg=None, v0=None, axis=None)
    for library in (True, False):
        results = [session(m, library=library).run(None, {"X": x})[0] for m in (explicit, implicit)]
        np.testing.assert_array_equal(*results)


def test_theta_may_be_computed_at_run_time():
    x = np.linspace(-3, 3, 50).astype(np.float32)
    fixed = session(fire_model(0.25, levels_pos=8), library=True).run(None, {"X": x})[0]
    model = fire_model(0.25, theta_is_input=True, levels_pos=8)
    dynamic = session(model, library=True).run(None, {"X": x, "theta": np.array(0.25, np.float32)})
    np.testing.assert_array_equal(dynamic[0], fixed)


def test_registered_kernel_wins_over_the_body():
    """A body that answers 0 shows which of the two ran."""
    model = fire_model(1.0, levels_pos=4)
    del model.functions[0].node[:]
    model.functions[0].node.append(helper.make_node("Sub", ["X", "X"], ["Y"]))
    x = np.array([3.0], np.float32)
    assert session(model, library=False).run(None, {"X": x})[0] == 0
    assert session(model, library=True).run(None, {"X": x})[0] == 3


@pytest.mark.parametrize(
    ("theta", "attributes", "message"),
    [
        (0.0, {}, r"theta\[0\] = 0"),
        (-1.0, {}, r"theta\[0\] = -1"),
        (np.nan, {}, r"theta\[0\] = -?nan"),
        (np.inf, {}, r"theta\[0\] = inf"),
        ([1.0, 0.0, 1.0], {}, r"theta\[1\] = 0"),
        (3e38, {"levels_pos": 2}, "overflows"),
        (np.ones((2, 2)), {}, "one value or values along one axis, got 2 axes"),
        (1.0, {"levels_pos": 0}, "levels_pos = 0 and levels_neg = 0"),
        (1.0, {"levels_pos": -1}, "levels_pos = -1"),
        (1.0, {"levels_neg": (1 << 24) + 1}, "levels_neg = 16777217"),
        (1.0, {"v0": 1.0}, "v0 = 1"),
        (1.0, {"v0": -0.1}, "v0 = -0.1"),
        (1.0, {"v0": -0.0}, "v0 = -0"),
        (1.0, {"v0": float("nan")}, "v0 = -?nan"),
        (1.0, {"v0": 0}, "v0 must be a float"),
        (1.0, {"levels_pos": 1.5}, "levels_pos must be an integer"),
    ],
    ids=str,
)
def test_kernel_refuses_bad_constants_when_created(theta, attributes, message):
    model = fire_model(theta, with_body=False, **attributes)
    with pytest.raises(Exception, match=f"node 'neuron'.*{message}"):
        session(model, library=True)


@pytest.mark.parametrize(
    ("theta", "shape", "axis", "message"),
    [
        (np.zeros(3), (2, 3), 1, r"theta\[0\] = 0"),
        (np.ones(3), (2, 4), 1, "theta has 3 values but axis 1 of X has 4 channels"),
        (np.ones(3), (3,), 1, "axis = 1 does not exist in X of rank 1"),
        (np.ones(3), (2, 3), -3, "axis = -3 does not exist in X of rank 2"),
        (np.ones(0), (2, 0), 2, "axis = 2 does not exist"),
        (np.ones((1, 3)), (3,), 1, "theta has rank 2, more than X of rank 1"),
        (np.ones((1, 1)), (3,), 1, "theta has rank 2, more than X of rank 1"),
        (np.ones((1, 3)), (3, 1), 1, "theta has 3 values but axis 1 of X has 1 channels"),
        (np.ones((3, 3)), (3, 3), 1, "one value or values along one axis"),
    ],
    ids=str,
)
def test_kernel_refuses_bad_tensors_at_run_time(theta, shape, axis, message):
    theta = theta.astype(np.float32)
    model = fire_model(theta, theta_is_input=True, with_body=False, axis=axis)
    runner = session(model, library=True)
    with pytest.raises(Exception, match=f"node 'neuron'.*{message}"):
        runner.run(None, {"X": np.zeros(shape, np.float32), "theta": theta})


def test_body_refuses_old_opsets():
    with pytest.raises(ValueError, match="opset 15"):
        MULTI_THRESHOLD_FIRE.function_body(14)


def test_schema_infers_type_and_shape():
    MULTI_THRESHOLD_FIRE.register_schema_once()
    MULTI_THRESHOLD_FIRE.register_schema_once()
    model = fire_model(np.ones(3), shape=["N", 3, 2])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.elem_type = 0
    del model.functions[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True).graph.output[0]
    assert inferred.type.tensor_type.elem_type == TensorProto.FLOAT
    dims = inferred.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 3, 2]


def test_schema_rejects_unknown_attributes():
    MULTI_THRESHOLD_FIRE.register_schema_once()
    model = fire_model(1.0, shape=["N"])
    model.graph.node[0].attribute.append(helper.make_attribute("leak", 0.1))
    with pytest.raises(onnx.checker.ValidationError, match="leak"):
        onnx.checker.check_model(model)
