"""The table of operators: against the operators themselves, and as the only one there is."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import snn_compile.compiler
import snn_compile.passes
from helpers import run_model
from onnx import TensorProto, defs, helper
from onnxruntime.capi._pybind_state import get_all_operator_schema
from snn_compile.passes.analysis.operators import _TABLE, OPERATORS, Inputs, Role

STANDARD = {schema.name for schema in defs.get_all_schemas_with_history() if not schema.domain}
ROWS, COLUMNS = 4, 6
#: Inputs besides float32 [ROWS, COLUMNS], and attributes.
KINDS = {
    **dict.fromkeys(["And", "Or", "Xor", "Not"], np.bool_),
    **dict.fromkeys(["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"], np.int32),
    "BitShift": np.uint32,
}
ATTRIBUTES = {
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": TensorProto.FLOAT},
    "Mod": {"fmod": 1},
}
#: Operators that onnxruntime has no kernel for, or not in float32.
UNTRIED = {"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Swish"}


def test_every_name_is_an_operator_and_stands_once():
    microsoft = {s.name for s in get_all_operator_schema() if s.domain in ("", "com.microsoft")}
    assert set(OPERATORS) - STANDARD - microsoft == {"GeluTanh"}  # a function of our own
    names = Counter(name for names, _ in _TABLE for name in names)
    assert not [name for name, count in names.items() if count > 1]


def drawn(op, seed):
    """Inputs of an element-wise operator, of one shape, and above 0: Log and Pow are defined."""
    rng = np.random.default_rng(seed)
    schema = defs.get_schema(op, 22)
    count = max(schema.min_input, 2 if OPERATORS[op].broadcasts else 1)
    kind = KINDS.get(op, np.float32)
    arrays = [
        rng.integers(0, 2 if kind is np.bool_ else 9, (ROWS, COLUMNS)).astype(kind)
        if op in KINDS
        else rng.uniform(0.1, 0.9, (ROWS, COLUMNS)).astype(kind)
        for _ in range(count)
    ]
    if op == "Where":
        arrays[0] = arrays[0] > 0.5
    return arrays


def run(op, arrays, **attributes):
    names = [f"x{i}" for i in range(len(arrays))]
    attributes |= ATTRIBUTES.get(op, {})
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ],
        [onnx.ValueInfoProto(name="y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    return run_model(model, dict(zip(names, arrays, strict=True)))[0]


ELEMENTWISE = sorted(
    op
    for op, what in OPERATORS.items()
    if what.elementwise and op in STANDARD and op not in UNTRIED
)


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_element_wise_operators_do_not_care_where_an_element_stands(op):
    arrays = drawn(op, 1)
    order = np.random.default_rng(0).permutation(ROWS * COLUMNS)

    def permuted(array):
        return array.reshape(-1)[order].reshape(array.shape)

    y = run(op, arrays)
    np.testing.assert_array_equal(run(op, [permuted(x) for x in arrays]), permuted(y))
    assert OPERATORS[op].per_row
    if OPERATORS[op].broadcasts:
        row = [arrays[0], *(x[:1] for x in arrays[1:])]
        full = [arrays[0], *(np.repeat(x[:1], ROWS, axis=0) for x in arrays[1:])]
        np.testing.assert_array_equal(run(op, row), run(op, full))


@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if op not in KINDS])
def test_affine_operators_keep_the_mean_and_others_do_not(op):
    """f((a + b) / 2) = (f(a) + f(b)) / 2 for the inputs that the table names."""
    first, second = drawn(op, 1), drawn(op, 2)
    affine = OPERATORS[op].affine
    moving = {
        Inputs.FIRST: [0],
        Inputs.ONE: [1],
        Inputs.LATER: list(range(1, len(first))),
    }.get(affine, list(range(len(first))))
    if op == "Where":  # its condition is fixed in any case
        moving = [1, 2]
    second = [b if at in moving else a for at, (a, b) in enumerate(zip(first, second, strict=True))]
    middle = [
        (a + b) / 2 if at in moving else a
        for at, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    mean = (run(op, first).astype(float) + run(op, second).astype(float)) / 2
    keeps = np.allclose(run(op, middle).astype(float), mean, rtol=1e-5, atol=1e-6)
    # On the positive inputs drawn here these are the identity, or constant.
    if affine is None and op not in LINEAR_ABOVE_0:
        assert not keeps
    elif affine is not None:
        assert keeps


LINEAR_ABOVE_0 = {
    *("Relu", "Clip", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "PRelu", "Selu", "Abs"),
    *("HardSigmoid", "Shrink", "Sign", "Floor", "Ceil", "IsNaN", "IsInf", "Not", "Equal"),
}


#: Operators with a power that take more than one input, or have no kernel in this opset.
POWERS_UNTRIED = {
    *("STFT", "GlobalLpPool", "LayerNormalization", "RMSNormalization"),
    *("InstanceNormalization", "GroupNormalization", "SimplifiedLayerNormalization"),
}


@pytest.mark.parametrize(
    "op",
    [op for op, what in OPERATORS.items() if what.power is not None and op not in POWERS_UNTRIED],
)
def test_outputs_grow_by_a_power_of_the_input(op):
    x = np.random.default_rng(0).uniform(0.1, 0.9, (ROWS, 2, COLUMNS, 1)).astype(np.float32)
    attributes = {"kernel_shape": [2, 2], "pads": [0, 0, 0, 1]} if op == "LpPool" else {}
    once, twice = run(op, [x], **attributes), run(op, [2 * x], **attributes)
    np.testing.assert_allclose(twice, 2 ** OPERATORS[op].power * once, rtol=1e-5)


def test_what_moves_values_is_affine_unless_it_selects_the_largest():
    selecting = {op for op, what in OPERATORS.items() if what.moves and not what.affine}
    assert selecting == {"Max", "Min", "MaxPool", "GlobalMaxPool", "ReduceMax"}


def test_weights_belong_to_linear_operators():
    weighted = {op for op, what in OPERATORS.items() if what.weighted}
    convolving = {op for op, what in OPERATORS.items() if what.convolves}
    linear = {op for op, what in OPERATORS.items() if what.role is Role.LINEAR}
    assert convolving < weighted < linear


# One table -----------------------------------------------------------------------------------

#: Where three and more names of operators may stand together, and why.
TABLES = {
    "passes/analysis/operators.py": "the table",
    "passes/analysis/functions.py": "rules: what each activation computes",
    "passes/analysis/rows.py": "rules: where each operator leaves the rows of the batch",
    "passes/analysis/arithmetic.py": "rules: what each element-wise operator computes",
    "passes/canonicalise/filled_operands.py": "rules: what keeps a tensor filled",
    "passes/canonicalise/split_fused.py": "rules: what onnxruntime joined",
    "passes/canonicalise/simplify.py": "rules: when each operator does nothing, rewrites",
    "passes/fold_batchnorm/fold_batchnorm.py": "rules: the scale and shift of arithmetic",
    "passes/recognise/recognise.py": "patterns: by the operator that ends them",
    "passes/recognise/patterns.py": "patterns",
    "passes/recognise/activations.py": "patterns",
    "passes/recognise/by_values.py": "patterns: the activations that values tell",
    "passes/recognise/norms.py": "patterns",
    "passes/recognise/ann_functions.py": "emitter: the functions written for old opsets",
    "passes/lowering/plain_layers.py": "rules: what stands for Gemm, pools and Reshape",
    "passes/lowering/spikes_of_integers.py": "emitter: the rounding of a neuron",
    "passes/lowering/set_opset.py": "rules: what changed between versions of an operator",
    "passes/lowering/written_out.py": "rules: whose defaults are written",
    "compiler/model_io/runtime_operators.py": "rules: operators that only onnxruntime has",
    "compiler/model_io/upgrade.py": "rules: what changed between versions of an operator",
    "compiler/running/integers/reference.py": "rules: what each operator gives of integers",
    "compiler/targets/nir/translate.py": "rules: the translation of each operator",
}


def operator_tables(source):
    """Lines of literals that hold three or more different names of operators."""
    operators = STANDARD | set(OPERATORS)
    displays = ast.Set | ast.Dict | ast.List | ast.Tuple
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, displays):
            elements = node.keys if isinstance(node, ast.Dict) else node.elts
            inner = [e.value if isinstance(e, ast.Starred) else e for e in elements if e]
            flat = [leaf for e in inner for leaf in (e.elts if isinstance(e, ast.Tuple) else [e])]
            names = {leaf.value for leaf in flat if isinstance(leaf, ast.Constant)}
            if len(names & operators) > 2:
                found.append(node.lineno)
    return found


def test_the_search_for_tables_finds_them():
    assert operator_tables('x = frozenset([*("Add", "Sub"), "Mul"])') == [1]
    assert operator_tables('x = {"Add": 1,\n "Sub": 2, "Mul": 3}') == [1]
    assert operator_tables('x = op in ("Add", "Sub", "Conv")') == [1]
    assert not operator_tables('x = ("Add", "Sub", "no operator")')


def test_operators_are_listed_nowhere_else():
    folders = [
        Path(package.__file__).parent for package in (snn_compile.compiler, snn_compile.passes)
    ]
    listing = {
        path.relative_to(folder.parent).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if operator_tables(path.read_text(encoding="utf-8"))
    }
    assert listing == set(TABLES)
