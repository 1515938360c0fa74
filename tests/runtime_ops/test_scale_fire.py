"""ScaleFire: its formula, its body's memory, its refusals."""

from __future__ import annotations

import numpy as np
import onnx.inliner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import assert_kernel_equals_body, assert_same_bits, operator_model, session
from snn_compile.runtime_ops.scale_fire import SCALE_FIRE


def scale_model(scale, thresholds, levels, **options):
    inputs = {"scale": scale, "thresholds": thresholds, "levels": levels}
    return operator_model(SCALE_FIRE, inputs, **options)


def formula(x, scale, thresholds, levels):
    """The design's formula, counted one by one, in float32."""
    scale, thresholds, levels = (np.asarray(v, np.float32) for v in (scale, thresholds, levels))
    count = (x[..., None] >= scale * thresholds).sum(-1)
    return np.where(np.isnan(x), x, scale * levels[count])


@pytest.mark.parametrize("count", [1, 2, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255])
def test_values_follow_the_formula(count):
    rng = np.random.default_rng(count)
    thresholds, levels = np.sort(rng.normal(0, 2, count)), rng.normal(0, 2, count + 1)
    x = np.concatenate([[-99], rng.normal(0, 2, 5000), thresholds * 0.7 + 1e-6]).astype(np.float32)
    y = assert_kernel_equals_body(scale_model(0.7, thresholds, levels), {"X": x})
    np.testing.assert_array_equal(y, formula(x, 0.7, thresholds, levels))
    assert len(np.unique(y)) == count + 1


@settings(max_examples=60, deadline=None)
@given(
    thresholds=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=255).map(sorted),
    scale=st.floats(2**-10, 1024, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_staircase(thresholds, scale, seed):
    """Thresholds may repeat: the level between two equal ones is never reached."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(0, 1, len(thresholds) + 1).astype(np.float32)
    ties = np.float32(scale) * np.asarray(thresholds, np.float32)
    x = np.concatenate(
        [ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))]
    )
    y = assert_kernel_equals_body(scale_model(scale, thresholds, levels), {"X": x})
    np.testing.assert_array_equal(y, formula(x, scale, thresholds, levels))


def test_equality_fires_and_infinities_saturate():
    tiny = np.float32(1e-7)
    x = np.array([1 - tiny, 1, 2, 3, np.inf, -np.inf, np.nan], np.float32)
    y = assert_kernel_equals_body(scale_model(1.0, [1, 2, 3], [0, 10, 20, 30]), {"X": x})
    np.testing.assert_array_equal(y, [0, 10, 20, 30, 30, 0, np.nan])


def test_tables_may_be_computed_at_run_time():
    x = np.linspace(-3, 3, 50).astype(np.float32)
    tables = ([-1, 0, 2], [5, 6, 7, 8])
    fixed = session(scale_model(0.5, *tables), library=True).run(None, {"X": x})[0]
    names = ["scale", "thresholds", "levels"]
    for at_run_time in (names, names[:1], names[1:], names[2:]):
        model = scale_model(0.5, *tables, at_run_time=at_run_time)
        values = dict(zip(names, (0.5, *tables), strict=True))
        feed = {name: np.array(values[name], np.float32) for name in at_run_time}
        assert_same_bits(session(model, library=True).run(None, {"X": x, **feed})[0], fixed)


def test_body_needs_memory_for_the_input_alone():
    """No intermediate tensor grows with the number of thresholds."""
    model = scale_model(0.5, np.arange(255), np.arange(256), shape=[2, 3, 400])
    inlined = onnx.inliner.inline_local_functions(model)
    inferred = onnx.shape_inference.infer_shapes(inlined, strict_mode=True, data_prop=True)
    sizes = [
        np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in inferred.graph.value_info
    ]
    assert len(sizes) > 60
    assert max(sizes) == 2 * 3 * 400


BAD_TABLES = [
    ([2, 1], [0, 1, 2], r"thresholds\[1\] = 1 is below the one before, 2"),
    ([1, np.nan], [0, 1, 2], r"thresholds\[1\] = -?nan must be finite"),
    ([-np.inf, 0], [0, 1, 2], r"thresholds\[0\] = -inf must be finite"),
    ([1, 2], [0, 1, np.inf], r"levels\[2\] = inf must be finite"),
    ([1, 2], [0, 1], "2 levels for 2 thresholds, must be one more"),
    ([], [0], r"0 thresholds, must be 1\.\.255"),
    (np.arange(256), np.arange(257), r"256 thresholds, must be 1\.\.255"),
    ([[1]], [0, 1], "thresholds and levels must have rank 1, got 2 and 1"),
    ([3e38], [0, 1], r"scale\[0\] = 2 times 3e\+38.* overflows float32"),
    ([1], [0, -3e38], r"scale\[0\] = 2 times 3e\+38.* overflows float32"),
]


@pytest.mark.parametrize(("thresholds", "levels", "message"), BAD_TABLES, ids=str)
def test_bad_tables_are_refused(thresholds, levels, message):
    model = scale_model(2.0, thresholds, levels, with_body=False)
    with pytest.raises(Exception, match=f"ScaleFire node 'neuron': {message}"):
        session(model, library=True)
    names = ["thresholds", "levels"]
    model = scale_model(2.0, thresholds, levels, with_body=False, at_run_time=names)
    runner = session(model, library=True)
    feed = {"thresholds": np.array(thresholds, np.float32), "levels": np.array(levels, np.float32)}
    with pytest.raises(Exception, match=f"ScaleFire node 'neuron': {message}"):
        runner.run(None, {"X": np.zeros(3, np.float32), **feed})


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.0, r"scale\[0\] = 0 must be finite and greater than 0"),
        (-1.0, r"scale\[0\] = -1"),
        (np.nan, r"scale\[0\] = -?nan"),
        ([1, np.inf, 1], r"scale\[1\] = inf"),
        ([[1.0]], "scale must be a scalar or of shape .C., got rank 2"),
        (3e38, "scale.*overflows float32"),
    ],
    ids=str,
)
def test_bad_scales_are_refused(scale, message):
    model = scale_model(scale, [1, 2], [0, 1, 2], with_body=False)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        session(model, library=True)
    model = scale_model(scale, [1, 2], [0, 1, 2], with_body=False, at_run_time=["scale"])
    runner = session(model, library=True)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        feed = {"X": np.zeros((2, 3), np.float32), "scale": np.array(scale, np.float32)}
        runner.run(None, feed)


def test_float16_overflow_is_seen_in_float16():
    from onnx import TensorProto

    def model(level):
        return scale_model(2.0, [1], [0, level], with_body=False, element_type=TensorProto.FLOAT16)

    session(model(32752), library=True)  # 2 * 32752 = 65504, the largest
    with pytest.raises(Exception, match="overflows float16"):
        session(model(32768), library=True)


def test_wrong_number_of_channels_is_refused():
    runner = session(scale_model([1, 1, 1], [1], [0, 1], with_body=False), library=True)
    with pytest.raises(Exception, match="scale has 3 values but axis 1 of X has 4 channels"):
        runner.run(None, {"X": np.zeros((2, 4), np.float32)})
