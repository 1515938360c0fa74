"""Kernels against function bodies, bit for bit: every operator, type and instruction set."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from operators import (
    NUMPY_TYPE,
    assert_kernel_equals_body,
    assert_same_bits,
    operator_model,
    session,
)
from snn_compile.runtime_ops import library_path
from snn_compile.runtime_ops.definition import DOMAIN
from snn_compile.runtime_ops.integrate_fire import INTEGRATE_FIRE
from snn_compile.runtime_ops.multi_threshold_fire import MULTI_THRESHOLD_FIRE
from snn_compile.runtime_ops.operators import OPERATORS
from snn_compile.runtime_ops.scale_fire import DUAL_SCALE_FIRE, SCALE_FIRE
from snn_compile.runtime_ops.staircase_fire import STAIRCASE_FIRE

TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE]
BATCH = 200_000
TEN_MILLION = 10_000_000


def staircase(cells, runs):
    """A table of so many cells and runs of equal levels, which do not ascend; one level is -0."""
    rng = np.random.default_rng(cells)
    ends = np.sort(rng.choice(np.arange(1, cells), runs - 1, replace=False))
    levels = rng.normal(0, 2, runs)
    levels[runs // 2] = -0.0
    return {"table": np.repeat(levels, np.diff([0, *ends, cells]))}


def uneven(cells, runs):
    """So many runs, three times as long at the ends of the table as in its middle."""
    distance = np.abs(np.arange(1, runs + 1) / runs - 0.5)
    ends = np.cumsum(distance + 0.25)
    ends = np.rint(ends / ends[-1] * cells).astype(int)
    levels = np.random.default_rng(cells).normal(0, 2, runs)
    return {"table": np.repeat(levels, np.diff([0, *ends]))}


def grid(cells):
    """Attributes that lay the cells over -4..4 in units of scale, not quite in the middle."""
    return {"density": cells / 8, "start": -cells / 2 + 0.3}


@dataclass(frozen=True)
class Case:
    """A neuron, its factor (theta or scale) left open."""

    operator: object
    attributes: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)

    @property
    def factor(self):
        return list(self.operator.inputs)[1]

    @property
    def timesteps(self):
        return self.attributes.get("timesteps", 1)

    def model(self, element_type, factor, **options):
        inputs = {self.factor: factor, **self.tables}
        return operator_model(
            self.operator, inputs, element_type=element_type, **options, **self.attributes
        )


CASES = {
    "fire": Case(MULTI_THRESHOLD_FIRE, {"levels_pos": 32}),
    "fire signed": Case(MULTI_THRESHOLD_FIRE, {"levels_pos": 5, "levels_neg": 9, "v0": 0.25}),
    "scale": Case(SCALE_FIRE, {"linear": 4, "top_pos": 48}),
    "scale below 0": Case(SCALE_FIRE, {"linear": 6, "top_pos": 0, "top_neg": 24}),
    "scale signed": Case(SCALE_FIRE, {"linear": 2048, "top_pos": 2048, "top_neg": 100}),
    "dual": Case(DUAL_SCALE_FIRE, {"linear": 16, "top_pos": 40, "top_neg": 16}),
    "staircase 7": Case(STAIRCASE_FIRE, grid(40), staircase(40, 7)),
    "staircase 32": Case(STAIRCASE_FIRE, grid(4096), staircase(4096, 32)),
    "staircase 33": Case(STAIRCASE_FIRE, grid(300), staircase(300, 33)),
    "staircase 8 even": Case(STAIRCASE_FIRE, grid(128), {"table": np.arange(128) // 16 - 3.5}),
    "staircase 33 uneven": Case(STAIRCASE_FIRE, grid(1000), uneven(1000, 33)),
    "staircase 65 uneven": Case(STAIRCASE_FIRE, grid(2300), uneven(2300, 65)),
    "staircase 4096": Case(STAIRCASE_FIRE, grid(4096), staircase(4096, 4096)),
    "integrate": Case(INTEGRATE_FIRE, {"timesteps": 8}),
    "integrate signed": Case(
        INTEGRATE_FIRE, {"timesteps": 4, "levels_pos": 3, "levels_neg": 2, "v0": 0.0}
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_type = pytest.mark.parametrize("element_type", TYPES, ids=TensorProto.DataType.Name)


@pytest.fixture(scope="module")
def instruction_sets(tmp_path_factory):
    """A copy of the library for each instruction set: one is fixed when a library is loaded."""
    folder = tmp_path_factory.mktemp("libraries")
    paths = {}
    for name in ("baseline", "avx2", "avx512"):
        paths[name] = shutil.copy(library_path(), folder / f"libsnn_ops_{name}.so")
    return paths


def isa_session(model, path, threads=1):
    """A session on the copy of the library at ``path``."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    name = Path(path).stem.removeprefix("libsnn_ops_")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "SNN_OPS_ISA", name)
        options.register_custom_ops_library(str(path))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def special_values(numpy_type):
    info = np.finfo(numpy_type)
    positive = [0, 1, np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal]
    return np.array([*positive, *np.negative(positive)], numpy_type)


def values(numpy_type, count, seed, factor):
    """Bit patterns of every kind, values of the neuron's range, and multiples of its factor."""
    rng = np.random.default_rng(seed)
    raw = np.frombuffer(rng.bytes(count * np.dtype(numpy_type).itemsize), numpy_type)
    dense = (rng.normal(0, 3, count) * float(factor)).astype(numpy_type)
    ties = (rng.integers(-80, 80, count).astype(numpy_type) / numpy_type(2)) * factor
    x = np.choose(rng.integers(0, 3, count), [raw, dense, ties.astype(numpy_type)])
    special = special_values(numpy_type)
    x[: len(special)] = special
    return x


@pytest.mark.parametrize("total", [BATCH, pytest.param(TEN_MILLION, marks=pytest.mark.slow)])
@every_type
@every_case
def test_many_values(case, element_type, total, instruction_sets):
    numpy_type = NUMPY_TYPE[element_type]
    model = case.model(element_type, 1.0, at_run_time=[case.factor])
    body = session(model, library=False)
    kernels = [
        isa_session(model, path, threads)
        for path in instruction_sets.values()
        for threads in (1, 2)
    ]
    # Cases of one operator share its total.
    shares = sum(other.operator is case.operator for other in CASES.values())
    for batch in range(-(-total // (BATCH * shares))):
        factor = np.array(np.random.default_rng(batch).uniform(0.01, 2), numpy_type)
        feed = {"X": values(numpy_type, BATCH, batch, factor), case.factor: factor}
        expected = body.run(None, feed)[0]
        assert len(np.unique(expected)) > 2
        for kernel in kernels:
            assert_same_bits(kernel.run(None, feed)[0], expected)


@every_type
@pytest.mark.parametrize("case", [CASES["integrate"], CASES["integrate signed"]], ids=str)
def test_timesteps_beyond_the_caches(case, element_type):
    """From 8 MiB on the kernel asks for memory ahead of its use."""
    numpy_type = NUMPY_TYPE[element_type]
    x = values(numpy_type, 4_800_000, 6, numpy_type(0.5)).reshape(case.timesteps, 3, -1)
    assert x.nbytes > 1 << 23
    for factor in (0.5, [0.5, 0.25, 1.0]):
        assert_kernel_equals_body(case.model(element_type, factor), {"X": x})


LENGTHS = [*range(36), *range(505, 520), 1023, 1024, 1025, 2047, 2049, 16383, 16384, 16385, 40000]


@every_type
@every_case
def test_every_partial_vector_length(case, element_type, instruction_sets):
    numpy_type = NUMPY_TYPE[element_type]
    model = case.model(element_type, 0.5)
    body = session(model, library=False)
    kernels = [isa_session(model, path, 2) for path in instruction_sets.values()]
    # From one element on: vectors that no register's length divides the address of.
    x = np.random.default_rng(0).normal(0, 2, 1 + max(LENGTHS) * case.timesteps)[1:]
    for length in LENGTHS:
        feed = {"X": x[: length * case.timesteps].astype(numpy_type)}
        expected = body.run(None, feed)[0]
        for kernel in kernels:
            assert_same_bits(kernel.run(None, feed)[0], expected)


LAYOUTS = [
    ((), (), 1),
    ((5,), (), 1),
    ((5,), (1,), 3),
    ((3, 1, 5), (1,), 1),
    ((4, 9, 33), (9,), 1),
    ((4, 9, 33), (33,), -1),
    ((8, 9, 8, 8), (9,), 1),  # rows of 64, the shortest long ones
    ((8, 9, 63), (9,), 1),
    ((4, 3), (3,), 1),
    ((4, 600), (600,), 1),  # more channels than a block has room for
    ((4, 300, 3), (300,), 1),
    ((4, 1, 2000), (1,), 1),
    ((2, 3, 0), (3,), 1),
    ((0, 3), (3,), 1),
    ((0, 3), (), 1),
    ((2,) * 8, (2,), -4),
    ((4, 9, 33), (9, 1), 0),  # from the right; the axis is not looked at
    ((4, 9, 33), (1, 9, 1), -7),
    ((4, 9, 33), (1, 33), 1),
    ((4, 9, 33), (1, 1), 1),
    ((4, 9, 33), (4, 1, 1), 1),
    ((8, 9, 8, 8), (9, 1, 1), 1),
    ((2, 0, 3), (0, 1), 1),
]


@every_type
@every_case
@pytest.mark.parametrize(("shape", "factor_shape", "axis"), LAYOUTS, ids=str)
def test_every_layout(case, element_type, shape, factor_shape, axis):
    if case.timesteps > 1:
        if not shape:
            pytest.skip("a scalar has no axis 0 for timesteps")
        shape = (shape[0] * case.timesteps, *shape[1:])
    numpy_type = NUMPY_TYPE[element_type]
    rng = np.random.default_rng(1)
    x = np.asarray(rng.normal(0, 3, shape), numpy_type)
    special = special_values(numpy_type)
    if x.size > len(special):
        x.reshape(-1)[: len(special)] = special
    factor = rng.uniform(0.05, 2, factor_shape)
    y = assert_kernel_equals_body(case.model(element_type, factor, axis=axis), {"X": x})
    if len(factor_shape) > 1 or factor.size == 1 or axis == -1:
        form = {"aligned": True, "signed": True}
        aligned = case.model(element_type, factor, axis=axis, form=form)
        assert_same_bits(session(aligned, library=False).run(None, {"X": x})[0], y)


@every_type
@every_case
def test_forms_of_the_body_give_the_same_bits(case, element_type):
    """One side or both, aligned or not, where both hold; in an optimised session too."""
    numpy_type = NUMPY_TYPE[element_type]
    one_sided = not case.attributes.get(case.operator.negative, 0)
    for factor in (np.array(0.37), np.array([0.3, 0.4, 0.5]).reshape(3, 1)):
        x = values(numpy_type, 9600, 7, numpy_type(0.37)).reshape(8, 3, 400)
        outputs = []
        for aligned in (False, True):
            for signed in (False, True) if one_sided else (True,):
                form = {"aligned": aligned, "signed": signed}
                model = case.model(element_type, factor, form=form)
                for optimise in (False, True):
                    runner = session(model, library=False, optimise=optimise)
                    outputs.append(runner.run(None, {"X": x})[0])
        for output in outputs[1:]:
            assert_same_bits(output, outputs[0])


@settings(max_examples=80, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(CASES)), element_type=st.sampled_from(TYPES))
def test_any_layout(data, name, element_type):
    case = CASES[name]
    shape = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    per_channel = data.draw(st.booleans()) and shape[axis] > 0
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    factor = rng.uniform(1e-3, 2, shape[axis] if per_channel else ())
    x = rng.normal(0, 4, (shape[0] * case.timesteps, *shape[1:]))
    model = case.model(element_type, factor, axis=axis)
    assert_kernel_equals_body(model, {"X": x.astype(NUMPY_TYPE[element_type])})


@every_type
@every_case
def test_special_values(case, element_type):
    """NaN stays NaN, infinities saturate, nothing silent is -0."""
    numpy_type = NUMPY_TYPE[element_type]
    special = special_values(numpy_type)
    x = np.tile(special, (case.timesteps, 1))
    y = assert_kernel_equals_body(case.model(element_type, 0.5), {"X": x})
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    assert np.isfinite(y[~np.isnan(x)]).all()
    assert not np.signbit(y[y == 0]).any()


@every_type
@every_case
def test_kernel_body_and_reference_agree(case, element_type):
    numpy_type = NUMPY_TYPE[element_type]
    x = np.random.default_rng(3).normal(0, 3, (8, 5, 6)).astype(numpy_type)
    for opset in (15, 18, 21):
        model = case.model(element_type, [0.1, 0.2, 0.3, 0.4, 0.5], opset=opset)
        with np.errstate(all="ignore"):
            reference = ReferenceEvaluator(model).run(None, {"X": x})[0]
        assert_same_bits(assert_kernel_equals_body(model, {"X": x}), reference)


@every_case
@every_type
def test_optimised_session_gives_the_same_bits(case, element_type):
    x = np.random.default_rng(4).normal(0, 3, (8, 3, 10)).astype(NUMPY_TYPE[element_type])
    model = case.model(element_type, [0.3, 0.4, 0.5], shape=["N", 3, 10])
    expected = session(model, library=False).run(None, {"X": x})[0]
    for library in (True, False):
        runner = session(model, library=library, optimise=True)
        assert_same_bits(runner.run(None, {"X": x})[0], expected)


@every_case
def test_input_survives_where_it_is_needed_again(case):
    """The kernel may write its output over its input, but not while somebody else reads it."""
    model = case.model(TensorProto.FLOAT, 0.5, shape=[8, 4000])
    nodes = [
        helper.make_node("Relu", ["X"], ["A"]),
        helper.make_node("Neg", ["A"], ["B"]),
        *model.graph.node,
        helper.make_node("Add", ["A", "Y"], ["Z"]),
        helper.make_node("Abs", ["Y"], ["W"]),
    ]
    nodes[2].input[0] = "B"
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    for name in "WZ":
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 4000])
        model.graph.output.append(info)
    x = np.random.default_rng(5).normal(0, 2, (8, 4000)).astype(np.float32)
    before = x.copy()
    kernel = session(model, library=True, optimise=True).run(None, {"X": x})
    body = session(model, library=False).run(None, {"X": x})
    np.testing.assert_array_equal(x, before)
    for a, b in zip(kernel, body, strict=True):
        assert_same_bits(a, b)


@every_type
@pytest.mark.parametrize(
    "case", [CASES[n] for n in ("fire", "scale", "dual", "staircase 7", "integrate")], ids=str
)
def test_registered_kernel_wins_over_the_body(case, element_type):
    """A body that answers 0 shows which of the two ran."""
    model = case.model(element_type, 1.0)
    function = model.functions[0]
    del function.node[:]
    function.node.append(helper.make_node("Sub", ["X", "X"], ["Y"]))
    x = np.full((case.timesteps, 1), 3, NUMPY_TYPE[element_type])
    assert not session(model, library=False).run(None, {"X": x})[0].any()
    assert session(model, library=True).run(None, {"X": x})[0].any()


@every_case
def test_runtime_knows_the_shape_behind_a_kernel(case):
    model = case.model(TensorProto.FLOAT, 1.0, shape=["N", 3, 2], with_body=False)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model, library=True).get_outputs()[0].shape == ["N", 3, 2]


@every_case
def test_unknown_dimensions_stay_unknown(case):
    """Handed back to the runtime unnamed, they would be taken for dimensions of the value -1."""
    model = case.model(TensorProto.FLOAT, 0.5, shape=[None, None, 4], with_body=False)
    model.graph.node[0].output[0] = "A"
    minus_one = onnx.numpy_helper.from_array(np.array([-1]), "minus_one")
    model.graph.initializer.append(minus_one)
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["A"], ["samples"], start=0, end=1),
            helper.make_node("Concat", ["samples", "minus_one"], ["flat"], axis=0),
            helper.make_node("Reshape", ["A", "flat"], ["Y"]),
        ]
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for optimise in (False, True):
        runner = session(model, library=True, optimise=optimise)
        assert runner.run(None, {"X": np.ones((8, 3, 4), np.float32)})[0].shape == (8, 12)


def test_unknown_rank_is_no_scalar():
    """The runtime shows rank 0 where it knows nothing; Transpose would refuse that."""
    model = operator_model(MULTI_THRESHOLD_FIRE, {"theta": 1.0}, with_body=False)
    model.graph.node[0].output[0] = "A"
    model.graph.node.append(helper.make_node("Transpose", ["A"], ["Y"], perm=[1, 0]))
    y = session(model, library=True).run(None, {"X": np.full((2, 3), 2, np.float32)})[0]
    assert y.shape == (3, 2)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
class TestDefinition:
    """Schema and body, for each operator."""

    def model(self, operator, **options):
        inputs = dict.fromkeys(list(operator.inputs)[1:], 1.0)
        return operator_model(operator, inputs, with_body=False, **options)

    def test_schema_infers_type_and_shape(self, operator):
        operator.register_schema_once()
        operator.register_schema_once()
        model = self.model(operator, shape=["N", 3, 2])
        model.graph.output[0].type.tensor_type.ClearField("shape")
        model.graph.output[0].type.tensor_type.elem_type = 0
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True).graph.output[0]
        assert inferred.type.tensor_type.elem_type == TensorProto.FLOAT
        dims = inferred.type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == ["N", 3, 2]

    def test_schema_rejects_unknown_attributes(self, operator):
        operator.register_schema_once()
        model = self.model(operator, shape=["N"])
        onnx.checker.check_model(model)
        model.graph.node[0].attribute.append(helper.make_attribute("leak", 0.1))
        with pytest.raises(onnx.checker.ValidationError, match="leak"):
            onnx.checker.check_model(model)

    def test_schema_and_body_have_the_same_face(self, operator):
        operator.register_schema_once()
        schema = onnx.defs.get_schema(operator.name, 1, DOMAIN)
        body = operator.function_body(17)
        assert [i.name for i in schema.inputs] == list(body.input)
        defaults = {a.name: helper.get_attribute_value(a) for a in body.attribute_proto}
        assert defaults == {
            name: helper.get_attribute_value(attribute.default_value)
            for name, attribute in schema.attributes.items()
        }

    def test_body_refuses_old_opsets_and_other_types(self, operator):
        with pytest.raises(ValueError, match="opset 15"):
            operator.function_body(14)
        with pytest.raises(ValueError, match="element type 7 is none of FLOAT"):
            operator.function_body(17, TensorProto.INT64)

    def test_axis_of_another_type_is_refused(self, operator):
        for axis, found in [(1.0, "float 1"), ("one", "string"), ([1], "list"), ([0.5], "list")]:
            model = self.model(operator, shape=["N"], axis=axis)
            message = f"'neuron': attribute axis must be an integer, got .*{found}"
            with pytest.raises(Exception, match=message):
                session(model, library=True)

    def test_runtime_refuses_inputs_of_two_types(self, operator):
        model = self.model(operator, shape=["N"])
        initializer = model.graph.initializer[0]
        initializer.CopyFrom(onnx.numpy_helper.from_array(np.array(1.0), initializer.name))
        with pytest.raises(Exception, match=r"neuron.*type inferencing"):
            session(model, library=True)
