"""StaircaseFire: its formula, its table, its body's memory, its refusals."""

from __future__ import annotations

import numpy as np
import onnx.inliner
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
from snn_compile.runtime_ops.staircase_fire import MAX_CELLS, STAIRCASE_FIRE, cell_of

TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE]
every_type = pytest.mark.parametrize("element_type", TYPES, ids=TensorProto.DataType.Name)


def staircase_model(scale, table, density=1.0, start=0.0, **options):
    inputs = {"scale": scale, "table": table}
    return operator_model(STAIRCASE_FIRE, inputs, density=density, start=start, **options)


@every_type
@pytest.mark.parametrize("scale", [0.5, 0.7])
@pytest.mark.parametrize("cells", [1, 2, 31, 32, 33, 300, MAX_CELLS])
def test_values_follow_the_formula(cells, scale, element_type):
    numpy_type = NUMPY_TYPE[element_type]
    rng = np.random.default_rng(cells)
    table = rng.normal(0, 2, cells).astype(numpy_type)
    density, start = cells / 7, -cells / 3
    ties = (np.arange(cells + 1) + start) / density * scale
    x = np.concatenate([[-99, 99, np.nan], rng.normal(0, 2, 5000), ties]).astype(numpy_type)
    model = staircase_model(scale, table, density, start, element_type=element_type)
    y = assert_kernel_equals_body(model, {"X": x})
    scale = numpy_type(scale)
    cell = cell_of(x, scale, density, start, cells)
    wide = np.float64 if numpy_type is np.float64 else np.float32
    expected = (wide(scale) * table[cell].astype(wide)).astype(numpy_type)
    np.testing.assert_array_equal(y, np.where(np.isnan(x), x, expected))
    assert cells == MAX_CELLS or set(cell) == set(range(cells))


@settings(max_examples=200, deadline=None)
@given(
    runs=st.one_of(
        st.lists(st.integers(1, 100), min_size=1, max_size=40),
        st.lists(st.integers(10, 50), min_size=20, max_size=80),
        st.tuples(st.integers(1, 128), st.integers(1, 32)).map(lambda run: [run[0]] * run[1]),
    ),
    density=st.floats(2**-10, 1024, width=32),
    start=st.floats(-4096, 4096, width=32),
    scale=st.floats(2**-10, 1024, width=32),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_staircase(runs, density, start, scale, seed):
    """Few runs of equal levels are held in registers, in one form if they are even."""
    levels = np.random.default_rng(seed).normal(0, 1, len(runs)).astype(np.float32)
    table = np.repeat(levels, runs)
    ends = np.float32((np.arange(len(table) + 1) + float(start)) / density * scale)
    special = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0], np.float32)
    beside = (np.nextafter(ends, np.float32(e)) for e in (-np.inf, np.inf))
    x = np.concatenate([special, ends, *beside])
    y = assert_kernel_equals_body(staircase_model(scale, table, density, start), {"X": x})
    cell = cell_of(x, np.float32(scale), density, start, len(table))
    expected = np.float32(scale) * table[cell]
    np.testing.assert_array_equal(y, np.where(np.isnan(x), x, expected))


def test_equality_fires_and_infinities_saturate():
    below = np.nextafter(np.float32(1), np.float32(0))
    x = np.array([below, 1, 2, 3, np.inf, -np.inf, np.nan], np.float32)
    y = assert_kernel_equals_body(staircase_model(1.0, [0, 10, 20, 30]), {"X": x})
    np.testing.assert_array_equal(y, [0, 10, 20, 30, 30, 0, np.nan])


@pytest.mark.parametrize("levels", [3, 40])
def test_no_level_is_minus_zero(levels):
    """Neither one of the table nor one that is too small for a product."""
    table = np.tile([-0.0, -1e-40, 1.0], levels)
    x = np.arange(len(table), dtype=np.float32) * np.float32(1e-9) + np.float32(1e-10)
    y = assert_kernel_equals_body(staircase_model(1e-9, table), {"X": x})
    assert (y[::3] == 0).all()
    assert (y[1::3] == 0).all()
    assert not np.signbit(y).any()


def test_tables_may_be_computed_at_run_time():
    x = np.linspace(-3, 3, 50).astype(np.float32)
    for table in (np.arange(8), np.arange(100)):
        given = {"scale": 0.5, "table": table}
        fixed = session(staircase_model(**given, start=-3.5), library=True).run(None, {"X": x})[0]
        for at_run_time in (["scale", "table"], ["scale"], ["table"]):
            model = staircase_model(**given, start=-3.5, at_run_time=at_run_time)
            feed = {name: np.array(given[name], np.float32) for name in at_run_time}
            assert_same_bits(session(model, library=True).run(None, {"X": x, **feed})[0], fixed)


def test_body_needs_memory_for_the_input_alone():
    """No intermediate tensor grows with the table's length."""
    form = {"aligned": True, "signed": True}
    model = staircase_model(0.5, np.arange(4096), shape=[2, 3, 400], form=form)
    inlined = onnx.inliner.inline_local_functions(model)
    inferred = onnx.shape_inference.infer_shapes(inlined, strict_mode=True, data_prop=True)
    sizes = [
        np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in inferred.graph.value_info
    ]
    assert len(sizes) > 15
    assert max(sizes) == 2 * 3 * 400


def test_cells_of_numpy():
    """Types and shapes of the specification in NumPy."""
    x = np.array([[0.4, 1.6], [np.nan, np.inf]])
    for stored in (np.float16, np.float32, np.float64):
        cell = cell_of(x.astype(stored), [[1.0], [2.0]], 2.0, -1.0, 4)
        assert cell.dtype == np.int64
        np.testing.assert_array_equal(cell, [[1, 3], [0, 3]])


BAD_TABLES = [
    ([1, np.nan], r"table\[1\] = -?nan must be finite"),
    ([-np.inf, 0], r"table\[0\] = -inf must be finite"),
    ([], r"table has 0 cells, must be 1\.\.4096"),
    (np.arange(4097), r"table has 4097 cells, must be 1\.\.4096"),
    ([[1]], "table must have rank 1, got 2"),
    (1, "table must have rank 1, got 0"),
    ([0, -3e38], r"scale\[0\] = 2 times 3e\+38.* overflows float32"),
]


@pytest.mark.parametrize(("table", "message"), BAD_TABLES, ids=str)
def test_bad_tables_are_refused(table, message):
    model = staircase_model(2.0, table, with_body=False)
    with pytest.raises(Exception, match=f"StaircaseFire node 'neuron': {message}"):
        session(model, library=True)
    model = staircase_model(2.0, table, with_body=False, at_run_time=["table"])
    runner = session(model, library=True)
    feed = {"table": np.array(table, np.float32)}
    with pytest.raises(Exception, match=f"StaircaseFire node 'neuron': {message}"):
        runner.run(None, {"X": np.zeros(3, np.float32), **feed})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"density": 0.0}, "density = 0 must be finite and greater than 0"),
        ({"density": -1.0}, "density = -1"),
        ({"density": float("inf")}, "density = inf"),
        ({"density": float("nan")}, "density = -?nan"),
        ({"density": 1}, "attribute density must be a float, got the integer 1"),
        ({"start": float("nan")}, "start = -?nan must be finite"),
        ({"start": float("-inf")}, "start = -inf"),
        ({"density": 1e-38}, r"\(1 / scale\[0\]\) \* density = \(1 / 1e\+10\) \* 1e-38 must be"),
    ],
    ids=str,
)
def test_bad_attributes_are_refused(attributes, message):
    model = staircase_model(1e10, [0, 1], with_body=False, **attributes)
    with pytest.raises(Exception, match=f"StaircaseFire node 'neuron': {message}"):
        session(model, library=True)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.0, r"scale\[0\] = 0 must be finite and greater than 0"),
        (-1.0, r"scale\[0\] = -1"),
        (np.nan, r"scale\[0\] = -?nan"),
        ([1, np.inf, 1], r"scale\[1\] = inf"),
        (np.ones((2, 3)), "scale must have one value or values along one axis, got 2 axes"),
        (3e38, "scale.*overflows float32"),
        ([1, 1e-39, 1], r"\(1 / scale\[1\]\) \* density"),
    ],
    ids=str,
)
def test_bad_scales_are_refused(scale, message):
    model = staircase_model(scale, [0, 1, 2], with_body=False)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        session(model, library=True)
    model = staircase_model(scale, [0, 1, 2], with_body=False, at_run_time=["scale"])
    runner = session(model, library=True)
    with pytest.raises(Exception, match=f"node 'neuron': {message}"):
        feed = {"X": np.zeros((2, 3), np.float32), "scale": np.array(scale, np.float32)}
        runner.run(None, feed)


def test_float16_overflow_is_seen_in_float16():
    def model(level):
        return staircase_model(2.0, [0, level], with_body=False, element_type=TensorProto.FLOAT16)

    session(model(32752), library=True)  # 2 * 32752 = 65504, the largest
    with pytest.raises(Exception, match="overflows float16"):
        session(model(32768), library=True)


def test_wrong_number_of_channels_is_refused():
    runner = session(staircase_model([1, 1, 1], [0, 1], with_body=False), library=True)
    with pytest.raises(Exception, match="scale has 3 values but axis 1 of X has 4 channels"):
        runner.run(None, {"X": np.zeros((2, 4), np.float32)})
