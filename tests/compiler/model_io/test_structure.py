"""What is refused before native code looks at a model: one case per rule, and what must pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import MODELS
from helpers import model_from_text
from onnx import AttributeProto, FunctionProto, ModelProto, TensorProto, helper, numpy_helper
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io.structure import MAX_NODES, check_source, check_structure

NET = """
    g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { a = MatMul (x, w) y = Relu (a) }"""
BRANCHES = """
    g (float[N,3] x, bool c) => (float[N,3] y) {
        a = Relu (x)
        y = If (c) <then_branch = t () => (float[N,3] p) { q = Abs (a) p = Neg (q) },
                    else_branch = e () => (float[N,3] p) { q = Neg (a) p = Abs (q) }>
    }"""
FUNCTIONS = """
    <ir_version: 8, opset_import: ["" : 17, "my" : 1]>
    g (float[N,3] x) => (float[N,3] y) { y = my.outer (x) }
    <opset_import: ["" : 17, "my" : 1], domain: "my">
    outer (X) => (Y) { a = my.inner <alpha = 0.5> (X) Y = my.inner <alpha = 0.1> (a) }
    <opset_import: ["" : 17], domain: "my">
    inner <alpha> (X) => (Y) { Y = LeakyRelu <alpha: float = @alpha> (X) }"""


def net():
    return model_from_text(NET)


def branches():
    return model_from_text(BRANCHES)


def with_functions():
    return onnx.parser.parse_model(FUNCTIONS)


def then_branch(model):
    return model.graph.node[1].attribute[0].g


@pytest.mark.parametrize("make", [net, branches, with_functions])
def test_valid_models_pass_and_stay_as_they_are(make):
    model = make()
    before = model.SerializeToString()
    check_source(model)
    assert model.SerializeToString() == before


def test_bundled_models_pass():
    for path in MODELS.glob("*.onnx"):
        check_source(onnx.load(path))


def refused(model: ModelProto, message: str, check=check_structure):
    with pytest.raises(ModelError, match=message) as caught:
        check(model)
    return str(caught.value)


# Names and order --------------------------------------------------------------------------------


def test_a_cycle_is_told_from_a_wrong_order():
    model = net()
    model.graph.node[0].input[0] = "y"
    assert "MatMul 'a' reads 'y', which Relu 'y' makes from its result: a cycle" in refused(
        model, "not valid ONNX"
    )
    model = net()
    model.graph.node.append(model.graph.node[0])
    del model.graph.node[0]
    refused(model, r"Relu 'y' reads 'a', which MatMul 'a' makes only later; sort the nodes")


def test_a_node_that_reads_its_own_output_is_a_cycle():
    model = net()
    model.graph.node[1].input[0] = "y"
    refused(model, "a cycle")


def test_a_cycle_through_a_branch_is_found():
    model = branches()
    model.graph.node[0].input[0] = "y"
    refused(model, "Relu 'a' reads 'y', which If 'y' makes from its result: a cycle")


@pytest.mark.parametrize("make", [net, branches])
def test_an_input_that_nothing_makes_is_named(make):
    model = make()
    model.graph.node[1].input[0] = "nowhere"
    refused(model, "reads 'nowhere', which nothing makes")


def test_a_branch_reads_outer_tensors_made_before_it_only():
    model = branches()
    then_branch(model).node[0].input[0] = "late"
    model.graph.node.append(helper.make_node("Abs", ["y"], ["late"]))
    refused(model, "Abs 'q' in then_branch of If 'y' reads 'late', which Abs 'late' makes only")
    then_branch(model).node[0].input[0] = "q"
    refused(model, "a cycle")


def test_a_node_does_not_read_from_a_sibling_branch():
    model = branches()
    then_branch(model).node[0].output[0] = "only_then"
    then_branch(model).node[1].input[0] = "only_then"
    check_structure(model)
    model.graph.node[1].attribute[1].g.node[0].input[0] = "only_then"
    refused(model, "in else_branch of If 'y' reads 'only_then', which nothing makes")


def test_left_out_optional_inputs_and_outputs_are_fine():
    check_structure(
        model_from_text("""
        g (float[N,3] x, float hi) => (float[N,3] y) { a = Clip (x, , hi) y, = Dropout (a) }""")
    )


def duplicate_output(model):
    model.graph.node[1].output[0] = "a"


def duplicate_input(model):
    model.graph.input.append(model.graph.input[0])


def duplicate_initializer(model):
    model.graph.initializer.append(model.graph.initializer[0])


def initializer_named_like_a_result(model):
    model.graph.initializer[0].name = "a"


def result_named_like_an_input(model):
    model.graph.node[0].output[0] = "x"


def sparse_named_like_an_initializer(model):
    model.graph.sparse_initializer.append(sparse("w"))


@pytest.mark.parametrize(
    "damage",
    [
        duplicate_output,
        duplicate_input,
        duplicate_initializer,
        initializer_named_like_a_result,
        result_named_like_an_input,
        sparse_named_like_an_initializer,
    ],
)
def test_two_tensors_of_one_name_are_refused(damage):
    model = net()
    damage(model)
    refused(model, "another tensor is named '[axw]' too")


@pytest.mark.parametrize("name", ["a", "x", "y", "later"])
def test_a_branch_does_not_shadow_any_outer_name(name):
    """Neither one made before nor one made after: graph libraries mix them up."""
    model = branches()
    model.graph.node.append(helper.make_node("Abs", ["y"], ["later"]))
    then_branch(model).node[0].output[0] = name
    then_branch(model).node[1].input[0] = name
    refused(model, f"in then_branch of If 'y': another tensor is named '{name}' too")


def test_an_initializer_may_be_an_input_too():
    model = net()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    check_structure(model)


def test_missing_and_doubled_outputs_are_refused():
    model = net()
    model.graph.output[0].name = "z"
    refused(model, "output 'z' is not made by anything")
    model = net()
    model.graph.output.append(model.graph.output[0])
    refused(model, "output 'y' is listed twice")
    model = branches()
    then_branch(model).output[0].name = "z"
    refused(model, "output 'z' in then_branch of If 'y' is not made")


def test_an_unnamed_input_or_weight_is_refused():
    model = net()
    model.graph.input[0].name = ""
    refused(model, "input '' has no name")
    model = net()
    model.graph.initializer[0].name = ""
    refused(model, "initializer '' has no name")


# Text, nesting, versions ------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["NAME_A", "NAME_B", "NAME_C", "NAME_D"])
def test_text_that_is_not_utf_8_is_refused(text):
    model = net()
    model.doc_string, model.graph.node[0].name = "NAME_A", "NAME_B"
    model.graph.node[0].metadata_props.add(key="k", value="NAME_C")
    model.graph.initializer[0].doc_string = "NAME_D"
    damaged = ModelProto.FromString(
        model.SerializeToString().replace(text.encode(), text[:-1].encode() + b"\xff")
    )
    refused(damaged, "text that is not UTF-8")


def test_strings_in_a_tensor_are_utf_8():
    model = net()
    model.graph.initializer.append(
        TensorProto(name="s", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    )
    refused(model, "text that is not UTF-8")


@pytest.mark.parametrize("value", [b"\xff", [b"fine", b"\xff"]])
def test_text_in_attributes_is_utf_8(value):
    model = net()
    model.graph.node[1].attribute.append(helper.make_attribute("note", value))
    refused(model, "attribute 'note' of Relu 'y' is text that is not UTF-8")


def nested(levels):
    model = branches()
    for _ in range(levels):
        outer = helper.make_node("If", ["c"], ["p"])
        inner = model.graph.node[1].attribute[0].g
        graph = onnx.GraphProto(name="t", node=[outer], output=inner.output)
        for name in ("then_branch", "else_branch"):
            outer_attribute = graph.node[0].attribute.add(name=name, type=AttributeProto.GRAPH)
            outer_attribute.g.CopyFrom(inner if name == "then_branch" else onnx.GraphProto())
        inner.CopyFrom(graph)
    return model


def test_deep_nesting_is_refused_without_following_it():
    refused(nested(40), "nested deeper than 100 levels")
    refused(nested(400), "nested deeper than 100 levels")


@pytest.mark.parametrize("version", [0, -5, 10_000])
def test_unknown_versions_are_refused(version):
    model = net()
    model.opset_import[0].version = version
    refused(model, f"opset {version}, onnx .* knows 1 to")
    model = net()
    model.ir_version = version
    refused(model, f"IR version {version}")


def test_a_domain_is_imported_once_and_where_it_is_used():
    model = net()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(model, "imports two versions of the domain ''")
    model = net()
    del model.opset_import[:]
    refused(model, "the domain '' is not imported")


# Operators --------------------------------------------------------------------------------------


def test_an_operator_that_onnx_does_not_know_is_named():
    model = net()
    model.graph.node[1].op_type = "Rectify"
    refused(model, f"Rectify 'y' is an operator that onnx {onnx.__version__} does not know")


def test_an_operator_newer_or_older_than_the_opset_is_refused():
    model = net()
    model.graph.node[1].op_type = "Gelu"
    refused(model, "Gelu 'y' is not an operator of version 17")
    model.graph.node[1].op_type = "Upsample"  # until 9
    refused(model, "Upsample 'y' is not an operator of version 17")


def test_an_unknown_domain_is_named_with_the_node():
    model = net()
    model.graph.node[1].domain = "com.example"
    refused(model, "Relu 'y' is an operator of the domain 'com.example', which neither onnx nor")


def test_domains_that_the_runtime_has_pass():
    model = net()
    model.graph.node[1].op_type, model.graph.node[1].domain = "FastGelu", "com.microsoft"
    check_source(model)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Scaler", "ai.onnx.ml"
    check_source(model)


def test_both_spellings_of_the_standard_domain_pass():
    model = net()
    model.graph.node[1].domain = "ai.onnx"
    check_source(model)


def test_a_node_without_an_operator_is_refused():
    model = net()
    model.graph.node[1].op_type = ""
    refused(model, "has no operator type")


@pytest.mark.parametrize("place", ["graph", "branch", "function", "definition"])
def test_models_with_our_operators_are_refused_wherever_they_are(place):
    model = with_functions() if place in ("function", "definition") else branches()
    if place == "definition":
        model.functions[1].domain = "ai.snn"
        for node in model.functions[0].node:
            node.domain = "ai.snn"
        for opsets in (model.opset_import, model.functions[0].opset_import):
            opsets.append(helper.make_opsetid("ai.snn", 1))
    else:
        model.functions.append(
            helper.make_function(
                "ai.snn", "Fire", ["X"], ["Y"], [helper.make_node("Relu", ["X"], ["Y"])],
                [helper.make_opsetid("", 17)],
            )
        )  # fmt: skip
        nodes = {"graph": model.graph.node, "function": model.functions[0].node}
        node = then_branch(model).node[0] if place == "branch" else nodes[place][0]
        node.op_type, node.domain = "Fire", "ai.snn"
        for holder in (model, model.functions[0]):
            holder.opset_import.append(helper.make_opsetid("ai.snn", 1))
    check_structure(model)
    refused(model, r"already contains ai\.snn operators", check_source)


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("DynamicQuantizeLinear", ""),
        ("ConvInteger", ""),
        ("QLinearAdd", "com.microsoft"),
        ("MatMulNBits", "com.microsoft"),
    ],
)
def test_quantised_models_are_refused(op, domain):
    model = net()
    model.graph.node[1].op_type, model.graph.node[1].domain = op, domain
    check_structure(model)
    refused(model, rf"already quantised \({op} 'y'\); compile the float network", check_source)


def test_training_information_is_refused():
    model = net()
    model.training_info.add()
    refused(model, "training information", check_source)
    model.training_info[0].algorithm.node.append(helper.make_node("Relu", ["no"], ["z"]))
    refused(model, "in the training information reads 'no'")


# Functions --------------------------------------------------------------------------------------


def test_recursive_functions_are_refused():
    model = with_functions()
    model.functions[0].node[0].op_type = "outer"
    refused(model, "function 'outer' calls itself")
    model = with_functions()
    model.functions[1].opset_import.append(helper.make_opsetid("my", 1))
    model.functions[1].node.append(helper.make_node("outer", ["X"], ["Z"], domain="my"))
    refused(model, "calls itself")


def test_functions_that_multiply_are_refused_in_no_time():
    """Twenty functions of two calls each are a million nodes, forty a million million."""
    model = with_functions()
    for level in range(40):
        call = {"domain": "my"}
        callee = f"f{level - 1}" if level else "inner"
        nodes = [
            helper.make_node(callee, ["X"], ["a"], **call),
            helper.make_node(callee, ["a"], ["Y"], **call),
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        model.functions.append(
            helper.make_function("my", f"f{level}", ["X"], ["Y"], nodes, imports)
        )
    check_structure(model)  # nobody calls them
    model.graph.node[0].op_type = "f39"
    refused(model, f"more than {MAX_NODES} nodes")


def test_calls_within_calls_are_bounded():
    model = with_functions()
    for level in reversed(range(150)):
        callee = f"f{level - 1}" if level else "inner"
        nodes = [helper.make_node(callee, ["X"], ["Y"], domain="my")]
        imports = [helper.make_opsetid("my", 1)]
        model.functions.append(
            helper.make_function("my", f"f{level}", ["X"], ["Y"], nodes, imports)
        )
    refused(model, "call each other 100 deep")


def second_of_one_name(model):
    model.functions.append(model.functions[1])
    return "two functions are named 'inner'"


def standard_domain(model):
    model.functions[1].domain = ""
    return "'inner' claims to be an operator of ONNX"


def unknown_output(model):
    model.functions[1].output[0] = "Z"
    return "'inner' does not make its outputs"


def outer_tensor(model):
    model.functions[1].node[0].input[0] = "x"
    return "LeakyRelu 'Y' in function 'inner' reads 'x', which nothing makes"


def two_inputs_of_one_name(model):
    model.functions[1].input.append("X")
    return "input 'X' in function 'inner' has no name of its own"


def two_results_of_one_name(model):
    model.functions[1].node.append(model.functions[1].node[0])
    return "another tensor is named 'Y' too"


def missing_import(model):
    del model.functions[1].opset_import[:]
    return "in function 'inner': the domain '' is not imported"


def missing_definition(model):
    del model.functions[1]
    return "inner 'a' in function 'outer' is an operator of the domain 'my'"


@pytest.mark.parametrize(
    "damage",
    [
        second_of_one_name,
        standard_domain,
        unknown_output,
        outer_tensor,
        two_inputs_of_one_name,
        two_results_of_one_name,
        missing_import,
        missing_definition,
    ],
)
def test_functions_are_checked_like_graphs(damage):
    model = with_functions()
    message = damage(model)
    refused(model, message)


# Tensors, types, attributes ---------------------------------------------------------------------


def sparse(name):
    values = numpy_helper.from_array(np.ones(2, np.float32), name)
    return helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.array([0, 3], np.int64)), [3, 4]
    )


def tensor(**fields):
    fields = {"name": "t", "data_type": TensorProto.FLOAT, "dims": [2]} | fields
    return TensorProto(**fields)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (tensor(data_type=0, raw_data=bytes(8)), r"no known element type \(0\)"),
        (tensor(data_type=77, raw_data=bytes(8)), r"no known element type \(77\)"),
        (tensor(), "needs 2 values in float_data and has 0"),
        (tensor(float_data=[1]), "needs 2 values in float_data and has 1"),
        (tensor(raw_data=bytes(7)), "needs 8 bytes and has 7"),
        (tensor(raw_data=bytes(12)), "needs 8 bytes and has 12"),
        (tensor(raw_data=bytes(8), float_data=[1, 2]), "more in float_data"),
        (tensor(int32_data=[1, 2]), "more in int32_data"),
        (tensor(data_type=TensorProto.STRING, raw_data=bytes(16)), "needs 0 bytes and has 16"),
        (tensor(dims=[-1, 2], raw_data=bytes(8)), "negative dimension"),
        (tensor(dims=[2**40, 2**40], raw_data=bytes(8)), "larger than any memory"),
        (tensor(dims=[0, 2**40, 2**40]), "larger than any memory"),
        (tensor(raw_data=bytes(8), segment=TensorProto.Segment(begin=0, end=1)), "segment"),
        (tensor(data_type=TensorProto.STRING, data_location=TensorProto.EXTERNAL), "strings"),
        (tensor(dims=[-2], data_location=TensorProto.EXTERNAL), "negative dimension"),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "function"])
def test_tensors_hold_what_they_declare(bad, message, place):
    model = with_functions() if place == "function" else branches()
    constant = helper.make_node("Constant", [], ["t"])
    constant.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(bad)
    if place == "initializer":
        model.graph.initializer.append(bad)
    else:
        holder = {
            "attribute": model.graph,
            "function": model.functions[0] if model.functions else 0,
        }
        (then_branch(model) if place == "branch" else holder[place]).node.append(constant)
    refused(model, message)


@pytest.mark.parametrize("data_type", sorted(set(TensorProto.DataType.values()) - {0}))
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_passes_with_the_right_size(data_type, raw):
    """Seven elements, so that the packed types end within a byte."""
    if data_type == TensorProto.STRING:
        good = helper.make_tensor("t", data_type, [7], list("abcdefg"))
        raw = False
    else:
        array = np.zeros(7, helper.tensor_dtype_to_np_dtype(data_type))
        good = numpy_helper.from_array(array, "t")
        if not raw:
            good = helper.make_tensor("t", data_type, [7], array)
    assert good.HasField("raw_data") == raw
    model = net()
    model.graph.initializer.append(good)
    check_structure(model)
    np.testing.assert_array_equal(numpy_helper.to_array(good).shape, [7])
    if raw:
        good.raw_data += b"\0"
    else:
        getattr(good, helper.tensor_dtype_to_field(data_type)).pop()
    refused(_with(net(), good), "initializer 't' of shape \\[7\\] needs")


def _with(model, initializer):
    model.graph.initializer.append(initializer)
    return model


def test_external_tensors_are_not_measured_here():
    check_structure(_with(net(), tensor(data_location=TensorProto.EXTERNAL)))


def test_sparse_tensors_have_an_index_for_each_value():
    model = net()
    model.graph.sparse_initializer.append(sparse("s"))
    check_structure(model)
    model.graph.sparse_initializer[0].indices.dims[0] = 3
    model.graph.sparse_initializer[0].indices.raw_data += bytes(8)
    refused(model, "sparse initializer 's' of shape .* has indices")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1])), "type sequence"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [1])), "type optional"),
        (helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, [1])), "type map"),
        (helper.make_sparse_tensor_type_proto(1, [1]), "type sparse_tensor"),
        (helper.make_tensor_type_proto(TensorProto.STRING, [1]), "holds text"),
        (helper.make_tensor_type_proto(0, [1]), "unknown type"),
        (helper.make_tensor_type_proto(99, [1]), r"no known element type \(99\)"),
        (onnx.TypeProto(), "has no type"),
        (helper.make_tensor_type_proto(1, [-2]), "negative dimension"),
        (helper.make_tensor_type_proto(1, [2**40, 2**40]), "larger than any memory"),
        (helper.make_tensor_type_proto(1, ["N", 2**31]), "takes 8 GiB, more than 4"),
    ],
)
def test_inputs_are_tensors_of_numbers_that_fit_into_memory(kind, message):
    model = net()
    model.graph.input.append(onnx.ValueInfoProto(name="extra", type=kind))
    refused(model, f"input 'extra' .*{message}|input 'extra' {message}")


def test_a_dimension_of_minus_one_is_unknown():
    model = net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    check_source(model)


@pytest.mark.parametrize("where", ["output", "value_info"])
def test_types_of_other_tensors_are_known_too(where):
    model = net()
    info = helper.make_tensor_value_info("y", 99, [1])
    getattr(model.graph, where).append(info)
    refused(model, "no known element type")


def leaky(**fields):
    model = model_from_text(
        "g (float[N,3] x) => (float[N,3] y) { y = LeakyRelu <alpha = 0.1> (x) }"
    )
    attribute = model.graph.node[0].attribute[0]
    for name, value in fields.items():
        setattr(attribute, name, value)
    return model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": AttributeProto.INT}, r"is declared i and holds \['f'\]"),
        ({"type": AttributeProto.TENSOR}, "is declared t and holds"),
        ({"type": AttributeProto.GRAPH}, "is declared g and holds"),
        ({"i": 3}, r"is declared f and holds \['f', 'i'\]"),
        ({"type": AttributeProto.UNDEFINED}, "no name or no type"),
        ({"name": ""}, "no name or no type"),
        ({"ref_attr_name": "alpha"}, "stands for an attribute of a function"),
    ],
)
def test_attributes_hold_the_value_that_they_declare(fields, message):
    refused(leaky(**fields), message)


def test_an_attribute_is_given_once():
    model = leaky()
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    refused(model, "LeakyRelu 'y' has two attributes 'alpha'")


def test_scalars_of_value_zero_may_be_left_out():
    model = leaky()
    model.graph.node[0].attribute[0].ClearField("f")
    check_structure(model)


CONV = """
    g (float[1,2,8,8] x) => (float[1,2,H,W] y) <float[2,2,3,3] w> {
        y = Conv <strides = [1,1], dilations = [1,1], group = 1, kernel_shape = [3,3],
                  pads = [0,0,0,0]> (x, w)
    }"""


@pytest.mark.parametrize("name", ["strides", "dilations", "group", "kernel_shape"])
@pytest.mark.parametrize("value", [0, -1, 2**40])
def test_what_native_code_divides_by_is_positive(name, value):
    model = model_from_text(CONV)
    attribute = next(a for a in model.graph.node[0].attribute if a.name == name)
    if name == "group":
        attribute.i = value
    else:
        attribute.ints[0] = value
    refused(model, f"attribute '{name}' of Conv 'y' is .* must be positive")


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("as_nodes", [True, False])
def test_a_division_that_processors_trap_is_refused(op, dtype, as_nodes):
    """onnxruntime computes it while it loads the model, and the process is gone."""
    kind = "int32" if dtype == np.int32 else "int64"
    model = model_from_text(f"""
        g ({kind}[2] x) => ({kind}[2] y) {{ a = {op} (x, x) y = Add (x, a) }}""")
    model.graph.node[0].input[:] = ["least", "minus"]
    values = {"least": np.iinfo(dtype).min, "minus": -1}
    for name, value in values.items():
        tensor = numpy_helper.from_array(np.array([5, value], dtype), name)
        if as_nodes:
            model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
    refused(model, f"{op} 'a' divides the smallest integer by -1")


def test_other_divisions_of_constants_pass():
    check_structure(
        model_from_text("""
        g (int64[2] x) => (int64[2] y) <int64[2] a = {-5, 7}, int64[2] b = {-1, -1}> {
            c = Div (a, b) d = Mod (c, x) y = Div (d, b)
        }""")
    )


def test_padding_is_within_range():
    model = model_from_text(CONV)
    next(a for a in model.graph.node[0].attribute if a.name == "pads").ints[0] = 2**40
    refused(model, "attribute 'pads' of Conv 'y' is .* out of range")


def test_an_empty_function_is_refused():
    model = with_functions()
    model.functions.append(FunctionProto(name="empty", domain="my"))
    refused(model, "'empty' does not make its outputs")


def test_time_grows_with_the_model_not_faster():
    """A chain of 20,000 nodes; a walk that starts over for each node would not come back."""
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_000)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("t0", "t20000")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    check_source(model)
    model.graph.node[0].input[0] = "t20000"
    refused(model, "a cycle")
