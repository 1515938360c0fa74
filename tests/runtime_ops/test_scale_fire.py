"""ScaleFire and DualScaleFire: levels on octaves, the nearest one, their forms, their refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from operators import (
    NUMPY_TYPE,
    assert_kernel_equals_body,
    assert_same_bits,
    operator_model,
    session,
)
from snn_compile.runtime_ops.scale_fire import (
    DUAL_SCALE_FIRE,
    MAX_LINEAR,
    MAX_TOP,
    SCALE_FIRE,
    fire_octave,
    is_level,
    octave_levels,
)

TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE]
every_type = pytest.mark.parametrize("element_type", TYPES, ids=TensorProto.DataType.Name)
both_names = pytest.mark.parametrize(
    "operator", [SCALE_FIRE, DUAL_SCALE_FIRE], ids=lambda operator: operator.name
)
#: linear, top_pos, top_neg
NEURONS = [
    (1, 1, 0),
    (2, 64, 0),
    (6, 24, 12),
    (4, 4, 4),
    (10, 0, 40),
    (5, 0, 5),
    (16, 40, 8),
    (100, 100, 0),
    (2048, 2048, 2048),
]


def octave_model(operator, scale, linear, top_pos, top_neg=0, **options):
    attributes = {"linear": linear, "top_pos": top_pos, "top_neg": top_neg}
    return operator_model(operator, {"scale": scale}, **attributes, **options)


def steps_at(values, linear):
    """The distance between levels in the octave of each of ``values``, which are not negative."""
    steps = np.ones(np.shape(values))
    while (above := values > linear * steps).any():
        steps = np.where(above, 2 * steps, steps)
    return steps


def levels_up_to(linear, top):
    """All integers up to m, and if that is even, every second one up to 2 m, every fourth..."""
    integers = np.arange((top if linear % 2 == 0 else min(top, linear)) + 1)
    return integers[integers % steps_at(integers, linear) == 0]


def around(values, numpy_type, count=4):
    """The values and so many of their neighbours on either side."""
    values = np.asarray(values, numpy_type)
    found = [values]
    for end in (-np.inf, np.inf):
        near = values
        for _ in range(count):
            near = np.nextafter(near, numpy_type(end))
            found.append(near)
    return np.concatenate(found)


def potentials(numpy_type, scale, linear, top, seed=0):
    """Normal values, thresholds, levels, octave edges and their neighbours, in units of X."""
    rng = np.random.default_rng(seed)
    edges = linear * 2.0 ** np.arange(0, 1 + np.ceil(np.log2(max(top / linear, 1))))
    ties = np.arange(min(2 * top, 400)) / 2
    marks = around(np.concatenate([edges, ties]) * float(scale), numpy_type)
    spread = rng.normal(0, top / 2, 5000) * float(scale)
    return np.concatenate([marks, -marks, spread.astype(numpy_type)])


@both_names
@every_type
@pytest.mark.parametrize(("linear", "top_pos", "top_neg"), NEURONS)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_values_follow_the_formula(operator, element_type, linear, top_pos, top_neg, scale):
    numpy_type = NUMPY_TYPE[element_type]
    x = potentials(numpy_type, scale, linear, max(top_pos, top_neg))
    model = octave_model(operator, scale, linear, top_pos, top_neg, element_type=element_type)
    y = assert_kernel_equals_body(model, {"X": x})
    scale = numpy_type(scale)
    k = fire_octave(x, scale, linear, top_pos, top_neg)
    assert_same_bits(y, (k.dtype.type(scale) * k).astype(numpy_type))


@pytest.mark.parametrize("numpy_type", [np.float32, np.float64])
@pytest.mark.parametrize("linear", [*range(1, 40), 63, 64, 100, 1000, 2047, MAX_LINEAR])
def test_the_level_is_a_nearest_one(linear, numpy_type):
    top = linear << 6 if linear % 2 == 0 else linear
    levels = levels_up_to(linear, top)
    rng = np.random.default_rng(linear)
    marks = around(np.concatenate([levels, (levels[1:] + levels[:-1]) / 2]), numpy_type, 8)
    c = np.concatenate([marks, rng.uniform(0, top, 9999).astype(numpy_type)])
    c = c[(c >= 0) & (c <= top)]
    k = fire_octave(c, 1, linear, top, 0)
    assert np.isin(k, levels).all()
    c, k = c.astype(np.float64), k.astype(np.float64)  # whose differences are exact here
    distance = np.abs(k - c)
    assert (distance <= steps_at(c, linear) / 2).all()
    above = np.searchsorted(levels, c)
    assert (distance <= np.abs(levels[above] - c)).all()
    assert (distance <= np.abs(levels[np.maximum(above - 1, 0)] - c)).all()
    assert_same_bits(
        fire_octave(-c.astype(numpy_type), 1, linear, top, top),
        numpy_type(0) - k.astype(numpy_type),
    )


def test_sums_would_give_a_level_too_far_away():
    """|c| + max(|c| * 2^24 / m, 2^23), just below an octave's edge; its levels are 2 apart."""
    c, linear = np.float32(3.9999998), 2
    grid = max(c * np.float32((1 << 24) / linear), np.float32(1 << 23))
    assert (c + grid) - grid == 2
    assert fire_octave(c, 1, linear, 8, 0) == 4


@pytest.mark.parametrize("linear", [1, 2, 3, 6, 7, 16, 100, 1000, MAX_LINEAR])
def test_levels_are_the_fixed_points(linear):
    most = (1 << 20) - 1 if linear % 2 == 0 else linear
    tops = np.arange(most + 1, dtype=np.float32)
    fixed = np.flatnonzero(fire_octave(tops, 1, linear, most, 0) == tops)
    np.testing.assert_array_equal(fixed, levels_up_to(linear, most))
    np.testing.assert_array_equal(fixed, octave_levels(linear, most))
    assert [k for k in range(-1, 200) if is_level(linear, k)] == levels_up_to(linear, 199).tolist()
    assert is_level(2, MAX_TOP) and not is_level(2, 2 * MAX_TOP)


@pytest.mark.parametrize("linear", [1, 3, 16])
@pytest.mark.parametrize("name", ["top_pos", "top_neg"])
def test_tops_are_levels(linear, name):
    for top in [*range(1, 60), 1 << 20, (1 << 20) - 1, 3 << 22, MAX_TOP]:
        attributes = {"linear": linear, "top_pos": linear, name: top}
        model = operator_model(SCALE_FIRE, {"scale": 0.01}, with_body=False, **attributes)
        if is_level(linear, top):
            session(model, library=True)
        else:
            with pytest.raises(Exception, match=f"{name} = {top} is no level of linear = {linear}"):
                session(model, library=True)


@both_names
def test_ties_go_to_the_even_one(operator):
    x = [0.5, 1.5, 2.5, 3.5, 5, 7, 10, 14]
    model = octave_model(operator, 1.0, 4, 16, 16)
    for sign in (1, -1):
        feed = {"X": np.float32(sign) * np.array(x, np.float32)}
        y = assert_kernel_equals_body(model, feed)
        np.testing.assert_array_equal(y, sign * np.array([0, 2, 2, 4, 4, 8, 8, 16]))


@both_names
@every_type
def test_infinities_saturate_and_silence_is_plus_zero(operator, element_type):
    numpy_type = NUMPY_TYPE[element_type]
    tiny = np.finfo(numpy_type).smallest_subnormal
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, tiny, -tiny, 0.2, -0.2], numpy_type)
    for top_pos, top_neg in [(8, 0), (8, 6), (0, 6)]:
        model = octave_model(operator, 0.5, 4, top_pos, top_neg, element_type=element_type)
        y = assert_kernel_equals_body(model, {"X": x})
        np.testing.assert_array_equal(y, [top_pos / 2, -top_neg / 2, np.nan, *[0] * 6])
        assert not np.signbit(y[y == 0]).any()


@settings(max_examples=60, deadline=None)
@given(
    linear=st.integers(1, MAX_LINEAR),
    octaves=st.integers(0, 12),
    negative=st.booleans(),
    scale=st.floats(2**-10, 1024, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_neuron(linear, octaves, negative, scale, seed):
    """Kernel and body agree, and a larger potential never gives a lower level."""
    top = linear << (octaves if linear % 2 == 0 else 0)
    x = potentials(np.float32, scale, linear, top, seed)
    model = octave_model(SCALE_FIRE, scale, linear, top, top if negative else 0)
    y = assert_kernel_equals_body(model, {"X": np.sort(x)})
    assert (np.diff(y) >= 0).all()


def test_both_names_and_forms_are_one_neuron():
    x = potentials(np.float32, 0.3, 16, 40)
    outputs = []
    for operator in (SCALE_FIRE, DUAL_SCALE_FIRE):
        for signed in (False, True):
            form = {"aligned": True, "signed": signed}
            model = octave_model(operator, 0.3, 16, 40, form=form)
            outputs.append(session(model, library=False).run(None, {"X": x})[0])
            outputs.append(session(model, library=True).run(None, {"X": x})[0])
    for output in outputs[1:]:
        assert_same_bits(output, outputs[0])


def test_optimiser_does_not_divide():
    """onnxruntime makes X / scale of X * (1 / scale), which rounds to other levels at times."""
    x = potentials(np.float32, 0.37, 16, 1 << 12)
    for signed in (False, True):
        form = {"aligned": True, "signed": signed}
        model = octave_model(SCALE_FIRE, 0.37, 16, 1 << 12, form=form)
        plain, optimised = (
            session(model, library=False, optimise=optimise).run(None, {"X": x})[0]
            for optimise in (False, True)
        )
        assert_same_bits(plain, optimised)
    scale = np.float32(0.37)
    assert (
        fire_octave(x, scale, 16, 1 << 12, 0) != fire_octave(x / scale, 1, 16, 1 << 12, 0)
    ).any()


def test_levels_of_numpy():
    """Types and shapes of the specification in NumPy."""
    x = np.array([[0.4, 1.6], [np.nan, 99]])
    for stored, computed in [(np.float16, np.float32), (np.float32,) * 2, (np.float64,) * 2]:
        k = fire_octave(x.astype(stored), [[1.0], [2.0]], 4, 8, 0)
        assert k.dtype == computed
        np.testing.assert_array_equal(k, [[0, 2], [np.nan, 8]])
    assert fire_octave([3, -3], 1, 4, 8, 2).tolist() == [3, -2]


def test_scale_may_be_computed_at_run_time():
    x = np.linspace(-3, 9, 50).astype(np.float32)
    fixed = session(octave_model(SCALE_FIRE, 0.25, 4, 16), library=True).run(None, {"X": x})[0]
    model = octave_model(SCALE_FIRE, 0.25, 4, 16, at_run_time=["scale"])
    feed = {"X": x, "scale": np.array(0.25, np.float32)}
    assert_same_bits(session(model, library=True).run(None, feed)[0], fixed)


@both_names
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"linear": 0}, r"linear = 0 must lie in 1\.\.2048"),
        ({"linear": 2049}, "linear = 2049"),
        ({"linear": 1.0}, "attribute linear must be an integer, got the float 1"),
        ({"top_pos": -1}, r"top_pos = -1 must lie in 0\.\.16777216"),
        ({"top_neg": (1 << 24) + 1}, "top_neg = 16777217"),
        ({"top_pos": 0}, "top_pos = 0 and top_neg = 0"),
        ({"linear": 2, "top_pos": 6}, "top_pos = 6 is no level of linear = 2"),
        ({"linear": 2, "top_neg": 3}, "top_neg = 3 is no level of linear = 2"),
    ],
    ids=str,
)
def test_bad_attributes_are_refused(operator, attributes, message):
    model = operator_model(operator, {"scale": 1.0}, with_body=False, **attributes)
    with pytest.raises(Exception, match=f"{operator.name} node 'neuron': {message}"):
        session(model, library=True)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.0, r"scale\[0\] = 0 must be finite and greater than 0"),
        (-1.0, r"scale\[0\] = -1"),
        (np.nan, r"scale\[0\] = -?nan"),
        ([1, np.inf, 1], r"scale\[1\] = inf"),
        (np.ones((2, 3)), "scale must have one value or values along one axis, got 2 axes"),
        (3e38, r"scale\[0\] = 3e\+38 times the level 2 overflows float32"),
        ([1, 1e-39, 1], r"1 / scale\[1\] = 1 / 1e-39 overflows"),
    ],
    ids=str,
)
def test_bad_scales_are_refused(scale, message):
    model = octave_model(SCALE_FIRE, scale, 2, 2, with_body=False)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        session(model, library=True)
    model = octave_model(SCALE_FIRE, scale, 2, 2, with_body=False, at_run_time=["scale"])
    runner = session(model, library=True)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        feed = {"X": np.zeros((2, 3), np.float32), "scale": np.array(scale, np.float32)}
        runner.run(None, feed)


def test_float16_overflow_is_seen_in_float16():
    def model(scale, top_pos):
        options = {"element_type": TensorProto.FLOAT16, "with_body": False}
        return octave_model(SCALE_FIRE, scale, 2047, top_pos, **options)

    session(model(32.0, 2047), library=True)  # 65504, the largest
    session(model(6e-8, 2047), library=True)  # computed in float32, so the reciprocal is finite
    with pytest.raises(Exception, match="overflows float16"):
        session(model(64.0, 2047), library=True)


@pytest.mark.parametrize(
    ("scale", "shape", "message"),
    [
        (np.ones(3), (2, 4), "scale has 3 values but axis 1 of X has 4 channels"),
        (np.ones((3, 1)), (3, 4, 1), "scale has 3 values but axis 1 of X has 4 channels"),
        (np.ones((1, 3)), (3,), "scale has rank 2, more than X of rank 1"),
        (np.ones(1), (), "scale has rank 1, more than X of rank 0"),
    ],
    ids=str,
)
def test_scales_that_do_not_fit_are_refused(scale, shape, message):
    runner = session(octave_model(SCALE_FIRE, scale, 1, 1, with_body=False), library=True)
    with pytest.raises(Exception, match=message):
        runner.run(None, {"X": np.zeros(shape, np.float32)})
