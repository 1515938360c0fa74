"""Weights in files of their own: what is read, and every place and size that is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import model_from_text
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from snn_compile.compiler.errors import ModelError
from snn_compile.compiler.model_io import external_data
from snn_compile.compiler.model_io.external_data import external_tensors, read_external

both_ways = pytest.mark.usefixtures("either_way")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")

DATA = np.arange(24, dtype=np.uint8)


def external(location="w.bin", dims=(6,), data_type=TensorProto.FLOAT, **entries):
    tensor = TensorProto(
        name="w", dims=dims, data_type=data_type, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def folder(tmp_path):
    """A model's folder with the data, and a secret beside it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(DATA.tobytes())
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    return tmp_path / "model"


@pytest.fixture(params=[pytest.param(True, marks=posix), False], ids=["descriptors", "paths"])
def either_way(request, monkeypatch):
    """Both ways of opening: folder by folder, and what systems without it do."""
    monkeypatch.setattr(external_data, "_BY_DESCRIPTOR", request.param)


@both_ways
def test_reads_what_onnx_reads(folder):
    tensor = external(dims=(2, 3))
    array = read_external(tensor, folder)
    expected = DATA.view(np.float32).reshape(2, 3)
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor, str(folder)), expected)
    array[0, 0] = 1  # the caller owns it
    assert (folder / "w.bin").read_bytes() == DATA.tobytes()


@pytest.mark.parametrize(
    "data_type", sorted(set(TensorProto.DataType.values()) - {0, TensorProto.STRING})
)
def test_reads_every_element_type(tmp_path, data_type):
    """Seven elements, so that the packed types end within a byte."""
    values = np.array([0, 1, 0, 1, 1, 0, 1]).astype(helper.tensor_dtype_to_np_dtype(data_type))
    plain = numpy_helper.from_array(values, "w")
    (tmp_path / "w.bin").write_bytes(plain.raw_data)
    array = read_external(external(dims=(7,), data_type=data_type), tmp_path)
    assert array.dtype == values.dtype
    assert array.tobytes() == values.tobytes()


@both_ways
def test_subfolders_and_names_with_spaces_are_fine(folder):
    (folder / "a b" / "c").mkdir(parents=True)
    (folder / "w.bin").rename(folder / "a b" / "c" / "w é.bin")
    assert read_external(external("./a b/c/w é.bin"), folder).shape == (6,)


def test_an_empty_and_a_scalar_tensor(folder):
    assert read_external(external(dims=(0, 3)), folder).shape == (0, 3)
    assert read_external(external(dims=(), offset=4), folder).shape == ()


@given(offset=st.integers(0, 2**64), length=st.none() | st.integers(0, 2**64), count=st.integers(0))
@settings(deadline=None, max_examples=200)
def test_offset_and_length_stay_within_the_file(tmp_path_factory, offset, length, count):
    _check_place(tmp_path_factory, offset, length, count)


@given(offset=st.integers(0, 26), length=st.none() | st.integers(0, 26), count=st.integers(0, 26))
@settings(deadline=None, max_examples=300)
def test_offset_and_length_near_the_end_of_the_file(tmp_path_factory, offset, length, count):
    _check_place(tmp_path_factory, offset, length, count)


def _check_place(tmp_path_factory, offset, length, count):
    folder = tmp_path_factory.getbasetemp()
    (folder / "place").write_bytes(DATA.tobytes())
    entries = {"offset": offset} | ({} if length is None else {"length": length})
    tensor = external("place", (min(count, 2**62),), TensorProto.UINT8, **entries)
    if offset + count <= 24 and length in (None, count):
        np.testing.assert_array_equal(read_external(tensor, folder), DATA[offset : offset + count])
    else:
        with pytest.raises(ModelError, match="tensor 'w' keeps its data in 'place'"):
            read_external(tensor, folder)


@pytest.mark.parametrize(
    "location",
    [
        *("../secret", "a/../../secret", "/etc/hostname", "C:\\w.bin", "C:w.bin", "\\w.bin"),
        *("..\\w", "", ".", "//server/share/w", "\\\\server\\share\\w"),
    ],
)
@both_ways
def test_places_outside_the_folder_are_refused(folder, location):
    with pytest.raises(ModelError, match="outside the model's folder; refused"):
        read_external(external(location), folder)


@pytest.mark.parametrize(
    "location", ["none.bin", "none/w.bin", "*/_ORT_MEM_ADDR_/*", "w.bin/w.bin"]
)
@both_ways
def test_missing_files_are_refused(folder, location):
    """One of them is how onnxruntime spells an address in memory."""
    with pytest.raises(ModelError, match=r"which is missing|cannot be read"):
        read_external(external(location), folder)


@pytest.mark.parametrize("location", ["w\0.bin", "w" * 5000])
@both_ways
def test_names_that_no_file_can_have_are_refused(folder, location):
    with pytest.raises(ModelError, match="cannot be read"):
        read_external(external(location), folder)


@posix
@both_ways
def test_symbolic_links_are_refused_at_any_part_of_the_path(folder):
    (folder / "link.bin").symlink_to(folder.parent / "secret")
    (folder / "up").symlink_to(folder.parent)
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder.parent)
    (folder / "inside.bin").symlink_to("w.bin")
    for location in ("link.bin", "up/secret", "sub/up/secret", "inside.bin"):
        with pytest.raises(ModelError, match="symbolic link; put the file itself there"):
            read_external(external(location), folder)


@posix
@both_ways
def test_hard_links_are_refused(folder):
    os.link(folder.parent / "secret", folder / "linked.bin")
    with pytest.raises(ModelError, match="hard link; put a copy of the file there"):
        read_external(external("linked.bin"), folder)


@posix
@both_ways
def test_folders_and_pipes_are_refused_without_waiting(folder):
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    for location in ("sub", "pipe"):
        with pytest.raises(ModelError, match="not a regular file"):
            read_external(external(location), folder)


@posix
@pytest.mark.parametrize("swap", ["link", "pipe", "folder"])
def test_a_file_exchanged_between_check_and_opening_is_not_followed(folder, monkeypatch, swap):
    def exchange_then_open(path, flags, *rest, dir_fd=None):
        if path == "w.bin":
            (folder / "w.bin").unlink()
            if swap == "link":
                (folder / "w.bin").symlink_to(folder.parent / "secret")
            elif swap == "pipe":
                os.mkfifo(folder / "w.bin")
            else:
                (folder / "w.bin").mkdir()
        return real(path, flags, *rest, dir_fd=dir_fd)

    real = os.open
    monkeypatch.setattr(external_data.os, "open", exchange_then_open)
    with pytest.raises(ModelError, match=r"cannot be read|not a regular file"):
        read_external(external(), folder)


@posix
def test_no_descriptor_is_left_open(folder):
    def opened():
        return len(list(Path("/dev/fd").iterdir()))

    before = opened()
    for location in ("w.bin", "none.bin", "w.bin/x", "../secret"):
        try:
            read_external(external(location), folder)
        except ModelError:
            continue
    assert opened() == before


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("value", ["-4", "4.0", "0x10", " 4", "٤", "", "9" * 30, "many"])
def test_offset_and_length_are_plain_numbers(folder, key, value):
    with pytest.raises(ModelError, match=f"with the {key} '{value}'"):
        read_external(external(**{key: value}), folder)


def test_a_length_that_does_not_fit_the_shape_is_refused(folder):
    with pytest.raises(ModelError, match=r"20 bytes, but its shape \[6\] needs 24"):
        read_external(external(length=20), folder)


def test_a_short_file_is_refused(folder):
    (folder / "w.bin").write_bytes(bytes(23))
    with pytest.raises(ModelError, match="bytes 0 to 24, but the file ends at 23"):
        read_external(external(), folder)


def test_a_place_given_twice_is_refused(folder):
    tensor = external()
    tensor.external_data.add(key="location", value="other.bin")
    with pytest.raises(ModelError, match="says so twice"):
        read_external(tensor, folder)


def test_strings_are_refused(folder):
    with pytest.raises(ModelError, match="cannot hold its type"):
        read_external(external(data_type=TensorProto.STRING), folder)


def test_external_tensors_are_found_wherever_they_are():
    model = model_from_text("""
        g (float[N,3] x, bool c) => (float[N,3] y) {
            y = If (c) <then_branch = t () => (float[N,3] p) { p = Abs (x) },
                        else_branch = e () => (float[N,3] q) { q = Neg (x) }>
        }""")
    model.graph.initializer.append(TensorProto(name="inline"))

    def named(name):
        tensor = external()
        tensor.name = name
        return tensor

    def sparse(name):
        return onnx.SparseTensorProto(values=named(name), indices=named(name + "_indices"))

    def constant(name):
        node = helper.make_node("Constant", [], [name])
        node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(named(name))
        return node

    model.graph.initializer.append(named("initializer"))
    model.graph.sparse_initializer.append(sparse("sparse"))
    model.graph.node.append(constant("constant"))
    many = model.graph.node[0].attribute.add(name="many", type=AttributeProto.TENSORS)
    many.tensors.append(named("list"))
    many.sparse_tensors.append(sparse("sparse_list"))
    model.graph.node[0].attribute.add(name="one").sparse_tensor.CopyFrom(sparse("sparse_one"))
    branch = model.graph.node[0].attribute[0].g
    branch.initializer.append(named("in_branch"))
    branch.node.append(constant("constant_in_branch"))
    graphs = model.graph.node[0].attribute.add(name="graphs")
    graphs.graphs.add(initializer=[named("in_graphs")])
    function = model.functions.add(name="f", domain="my", node=[constant("in_function")])
    function.attribute_proto.add(name="default").t.CopyFrom(named("default"))
    model.training_info.add().algorithm.initializer.append(named("training"))

    found = [tensor.name for tensor in external_tensors(model)]
    assert sorted(found) == sorted(
        [
            *("initializer", "sparse", "sparse_indices", "constant", "list", "sparse_list"),
            *("sparse_list_indices", "sparse_one", "sparse_one_indices", "in_branch"),
            *("constant_in_branch", "in_graphs", "in_function", "default", "training"),
        ]
    )
