"""Reading models nobody vouches for, and writing results whole or not at all."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from helpers import model_from_text, run_model
from onnx import TensorProto, helper
from snn_compile.compiler.errors import ModelError, UsageError
from snn_compile.compiler.model_io import save
from snn_compile.compiler.model_io.load import load_source
from snn_compile.compiler.model_io.save import check_output
from snn_compile.passes.graph.network import detach

NET = """
    g (float[N,3] x) => (float[N,64] y) <float[3,64] w> { a = MatMul (x, w) y = Relu (a) }"""


def net():
    return model_from_text(NET)


def load_model(source):
    return load_source(source).network.attached()


def save_external(folder, location="weights.bin"):
    onnx.save_model(
        net(), folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0
    )
    return folder / "m.onnx"


def relocate(path, location):
    """Let the model name another place for its weights."""
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_loads_plain_and_external_models_alike(tmp_path):
    onnx.save(net(), tmp_path / "plain.onnx")
    plain, external = load_model(tmp_path / "plain.onnx"), load_model(save_external(tmp_path))
    x = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(run_model(plain, x)[0], run_model(external, x)[0])
    assert load_source(tmp_path / "plain.onnx").external_data == []
    assert load_source(tmp_path / "m.onnx").external_data == [tmp_path / "weights.bin"]


def test_external_data_below_the_folder_is_fine(tmp_path):
    path = save_external(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "sub" / "weights.bin")
    relocate(path, "sub/weights.bin")
    assert load_model(path).graph.initializer[0].raw_data


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin", "C:\\weights.bin", ""]
)
def test_refuses_external_data_outside_the_folder(tmp_path, location):
    (tmp_path / "in").mkdir()
    path = save_external(tmp_path / "in")
    (tmp_path / "weights.bin").write_bytes((tmp_path / "in" / "weights.bin").read_bytes())
    relocate(path, location)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def test_refuses_external_data_behind_a_symbolic_link(tmp_path):
    (tmp_path / "in").mkdir()
    path = save_external(tmp_path / "in")
    (tmp_path / "in" / "weights.bin").rename(tmp_path / "secret")
    (tmp_path / "in" / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="symbolic link"):
        load_model(path)
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    relocate(path, "link/secret")
    with pytest.raises(ModelError, match="symbolic link"):
        load_model(path)


def test_refuses_external_data_behind_a_hard_link(tmp_path):
    path = save_external(tmp_path)
    os.link(tmp_path / "weights.bin", tmp_path / "other")
    with pytest.raises(ModelError, match="hard link; put a copy"):
        load_model(path)


def test_refuses_missing_and_short_external_data(tmp_path):
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ModelError, match="but the file ends at 4"):
        load_model(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not a model", "not an ONNX model|no nodes"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model|no nodes"),
        (net().SerializeToString()[:-40], "not an ONNX model"),
    ],
    ids=["empty", "text", "random", "truncated"],
)
def test_refuses_files_that_are_no_models(tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.onnx")


def test_refuses_missing_files_and_folders(tmp_path):
    for path, message in ((tmp_path / "no.onnx", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ModelError, match=message):
            load_model(path)


def break_order(model):
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def break_name(model):
    model.graph.node[1].output[0] = "a"


def break_type(model):
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def break_shape(model):
    model.graph.initializer[0].dims[0] = 5


def break_input(model):
    model.graph.node[0].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_order, "makes only later; sort"),
        (break_name, "another tensor is named 'a'"),
        (break_type, "not valid ONNX"),
        (break_shape, "needs 1280 bytes and has 768"),
        (break_input, "nowhere"),
    ],
)
def test_refuses_invalid_graphs(damage, message):
    model = net()
    damage(model)
    with pytest.raises(ModelError, match=message):
        load_model(model)


def test_refuses_models_that_spike_already():
    model = net()
    model.graph.node.append(helper.make_node("MultiThresholdFire", ["y"], ["z"], domain="ai.snn"))
    with pytest.raises(ModelError, match=r"already contains ai\.snn operators"):
        load_model(model)


def test_old_opsets_are_converted_and_keep_what_the_converter_drops():
    model = model_from_text(NET, opset=11)
    model.doc_string, model.domain, model.model_version = "doc", "org.example", 7
    model.graph.doc_string = "graph doc"
    model.metadata_props.add(key="author", value="me")
    model.graph.node[0].name, model.graph.node[0].doc_string = "linear", "node doc"
    model.graph.node[0].metadata_props.add(key="k", value="v")
    converted = load_model(model)
    assert converted.opset_import[0].version == 15
    assert (converted.doc_string, converted.domain, converted.model_version) == (
        "doc",
        "org.example",
        7,
    )
    assert converted.graph.doc_string == "graph doc"
    assert converted.metadata_props[0].key == "author"
    node = converted.graph.node[0]
    assert (node.name, node.doc_string, node.metadata_props[0].value) == ("linear", "node doc", "v")
    x = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(run_model(model, x)[0], run_model(converted, x)[0])


def test_saves_with_external_data_beside_the_output(tmp_path):
    save.save_files({tmp_path / "out.onnx": detach(net())}, external_data=True)
    assert {p.name for p in tmp_path.iterdir()} <= {"out.onnx", "out.onnx.data"}
    x = {"x": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(
        run_model(load_model(tmp_path / "out.onnx"), x)[0], run_model(net(), x)[0]
    )


def test_large_weights_go_to_the_data_file(tmp_path):
    model = model_from_text("""
        g (float[N,100] x) => (float[N,100] y) <float[100,100] w> { y = MatMul (x, w) }""")
    save.save_files({tmp_path / "out.onnx": detach(model)}, external_data=True)
    assert (tmp_path / "out.onnx.data").stat().st_size >= 40_000
    assert (tmp_path / "out.onnx").stat().st_size < 1000
    assert len(load_model(tmp_path / "out.onnx").graph.initializer[0].raw_data) == 40_000


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(save.Path, "write_bytes", fail)
    with pytest.raises(UsageError if isinstance(error, OSError) else KeyboardInterrupt):
        save.save_files({target: b"new"})
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


LARGE = """
    g (float[N,100] x) => (float[N,100] y) <float[100,100] w> { y = MatMul (x, w) }"""


@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
@pytest.mark.parametrize("fails_at", [None, 0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_model_weights_and_report_are_written_all_or_none(
    tmp_path, monkeypatch, old, fails_at, error
):
    """A move that fails, or is interrupted, whichever of them it is."""
    files = [tmp_path / name for name in ("out.onnx", "out.onnx.data", "report.json")]
    if old:
        for file in files:
            file.write_bytes(b"old")
    count, replace = iter(range(100)), save.Path.replace

    def fail_once(self, target):
        if next(count) == fails_at:
            raise error
        return replace(self, target)

    monkeypatch.setattr(save.Path, "replace", fail_once)
    network = detach(model_from_text(LARGE))
    contents = {files[2]: b"{}", files[0]: network}
    moves = 5 if old else 3
    if fails_at is None or fails_at >= moves:
        save.save_files(contents, external_data=True)
        assert sorted(tmp_path.iterdir()) == files
        assert files[2].read_text() == "{}"
        assert len(load_source(files[0]).network.weights) == 1
        return
    with pytest.raises(UsageError if isinstance(error, OSError) else KeyboardInterrupt):
        save.save_files(contents, external_data=True)
    assert sorted(tmp_path.iterdir()) == (files if old else [])
    assert all(file.read_bytes() == b"old" for file in tmp_path.iterdir())


def test_weights_of_the_source_are_never_replaced(tmp_path):
    data = tmp_path / "out.onnx.data"
    data.write_bytes(b"of the source")
    contents = {tmp_path / "out.onnx": detach(model_from_text(LARGE))}
    with pytest.raises(UsageError, match=r"out\.onnx\.data: holds data of the source"):
        save.save_files(contents, external_data=True, keep=[data])
    assert data.read_bytes() == b"of the source"
    assert list(tmp_path.iterdir()) == [data]


def test_the_data_file_is_neither_the_report_nor_a_folder(tmp_path):
    data, network = tmp_path / "out.onnx.data", detach(model_from_text(LARGE))
    with pytest.raises(UsageError, match="is where the weights go"):
        save.save_files({data: b"{}", tmp_path / "out.onnx": network}, external_data=True)
    data.mkdir()
    with pytest.raises(UsageError, match="is where the weights go"):
        save.save_files({tmp_path / "out.onnx": network}, external_data=True)
    assert list(tmp_path.iterdir()) == [data]


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "reference").write_bytes(b"")
    save.save_files({tmp_path / "out": b""})
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "reference").stat().st_mode


def test_output_paths_are_checked_early(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out.onnx", "does not exist"),
        (model, "is the model itself"),
        (tmp_path / "." / "m.onnx", "is the model itself"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_output(path, model)
    check_output(tmp_path / "out.onnx", model)
    samples = tmp_path / "calibration.npz"
    samples.write_bytes(b"")
    with pytest.raises(UsageError, match="is read too"):
        check_output(samples, model, tmp_path / "none", samples)
    with pytest.raises(UsageError, match="cannot be written"):
        check_output(tmp_path / ("x" * 300), model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
def test_links_to_the_model_and_devices_are_no_outputs(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    (tmp_path / "symbolic").symlink_to(model)
    os.link(model, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        ("symbolic", "is the model itself"),
        ("hard", "is the model itself"),
        ("pipe", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("/dev/full", "is not a regular file"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_output(tmp_path / name, model)
