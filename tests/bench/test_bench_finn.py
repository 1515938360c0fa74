"""Networks in FINN: the tables, what counts as left, and the bundled network where FINN is."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import bench_finn
import finn_worker
import make_runtimes
import numpy as np
import onnx
import pytest
from bench_web import load
from conftest import REPOSITORY
from helpers import model_from_text
from snn_compile.compiler import CompileOptions

_FOLDER = REPOSITORY / "build"
#: Operators that no hardware layer is left of.
_NONE_OF = {"Conv", "MatMul", "MultiThreshold", "Quant", "Mul", "Add", "Slice", "Pad"}

HARDWARE = {
    "in a row": (
        "float[N,3,8,8] x",
        """<float[4,3,3,3] v, float[4] b, float[4,4,3,3] w, int64[2] to = {0, -1}, float[64,5] u> {
        c = Conv <pads=[1,1,1,1]> (x, v, b) r = Relu (c)
        m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)
        d = Conv <pads=[1,1,1,1]> (m, w) s = Relu (d)
        f = Reshape (s, to) y = MatMul (f, u) }""",
    ),
    "a shortcut that thins out and widens": (
        "float[N,3,8,8] x",
        """<float[4,3,3,3] v, float[6,4,3,3] w, int64[2] first = {0, 0}, int64[2] axes = {2, 3},
        int64[2] last = {9223372036854775807, 9223372036854775807}, int64[2] by = {2, 2},
        int64[8] around = {0, 1, 0, 0, 0, 1, 0, 0}, float[6,5] u, float[5] e> {
        c = Conv <pads=[1,1,1,1]> (x, v) r = Relu (c)
        d = Conv <pads=[1,1,1,1], strides=[2,2]> (r, w)
        t = Slice (r, first, last, axes, by) p = Pad (t, around)
        a = Add (p, d) s = Relu (a)
        g = GlobalAveragePool (s) f = Flatten (g) y = Gemm (f, u, e) }""",
    ),
    "depthwise, padded as SAME": (
        "float[N,3,9,9] x",
        """<float[4,3,3,3] v, float[4,1,3,3] w, float[4,4,1,1] z, float[1,4,1,1] b, float[4,5] u> {
        c = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, v) r = Relu (c)
        d = Conv <auto_pad="SAME_LOWER", group=4> (r, w) e = Add (b, d) s = Relu (e)
        f = Conv (s, z) t = Relu (f) g = GlobalAveragePool (t) h = Flatten (g)
        y = MatMul (h, u) }""",
    ),
}


def answer(left=()):
    stage = {"name": "hardware", "nodes": {"MVAU": 2, "Thresholding": 1}}
    stage |= {"flipped": 1, "difference": 0.0321, "seconds": 2.0}
    return {"versions": {}, "stages": [stage], "left": list(left)}


def test_tables_have_stages_and_what_is_left():
    one = {"op": "Mul", "name": "Mul_0", "hardware": False, "reads": ["INT4"], "between": True}
    lines = bench_finn.tables({"digits": answer([one])})
    assert "| digits | hardware | 2 MVAU, 1 Thresholding | 1 | 0.03 |" in lines
    assert lines[-1] == "| digits | Mul | no | INT4 | yes |"


def test_a_node_is_between_neurons_where_one_leads_to_it_and_it_to_one():
    graph = onnx.parser.parse_graph(
        """g (float[1,4] x) => (float[1,4] y) { a = Mul (x, two) b = Thresholding (a)
        c = Mul (b, two) d = Neg (b) e = Thresholding (c) y = Add (e, d) }"""
    )
    kinds = {"x": "FLOAT32", "a": "FLOAT32", "c": "FLOAT32"}
    model = SimpleNamespace(
        graph=graph,
        get_initializer=lambda name: name if name == "two" else None,
        get_tensor_datatype=lambda name: SimpleNamespace(
            name=kinds.get(name, "INT4"), is_integer=lambda: name not in kinds
        ),
    )
    found = {one.op + one.reads[0]: one.between for one in finn_worker.left(model)}
    assert found == {
        "MulFLOAT32": False,
        "ThresholdingFLOAT32": False,
        "MulINT4": True,
        "NegINT4": False,
        "AddINT4": False,
    }


def test_a_python_without_finn_says_so(tmp_path):
    if importlib.util.find_spec("finn"):
        pytest.skip("FINN is installed")
    with pytest.raises(RuntimeError, match="no module finn"):
        bench_finn.run_finn(sys.executable, tmp_path / "x.onnx", tmp_path / "x.npz")


def test_what_is_said_last_is_the_reason(tmp_path, monkeypatch):
    failing = tmp_path / "worker.py"
    failing.write_text("raise ValueError('no such layer')")
    monkeypatch.setattr(bench_finn, "_WORKER", failing)
    with pytest.raises(RuntimeError, match="FINN: ValueError: no such layer"):
        bench_finn.run_finn(sys.executable, tmp_path / "x.onnx", tmp_path / "x.npz")


@pytest.fixture(scope="module")
def python():
    """Of an environment with FINN."""
    if importlib.util.find_spec("finn"):
        return sys.executable
    own = _FOLDER / "finn" / "bin" / "python"
    if not own.exists():
        pytest.skip("FINN is not installed; make finn makes an environment for it")
    return own


def all_is_hardware(found):
    last = found["stages"][-1]
    return not _NONE_OF & set(last["nodes"]) and not any(one["between"] for one in found["left"])


@pytest.mark.slow
def test_all_of_the_bundled_network_becomes_hardware(python, tmp_path):
    options = CompileOptions(target="qonnx")
    files = bench_finn.write_network("digits", load("digits", None), options, tmp_path)
    found = bench_finn.run_finn(python, *files)
    assert all_is_hardware(found)
    assert not any(stage["flipped"] for stage in found["stages"])
    assert found["stages"][-1]["nodes"]["Thresholding"] == 11
    assert found["stages"][-1]["nodes"]["MVAU"] == 7


@pytest.mark.slow
@pytest.mark.parametrize("form", ["thresholds", "quant"])
@pytest.mark.parametrize("name", HARDWARE)
def test_networks_become_hardware(name, form, python, tmp_path):
    x, body = HARDWARE[name]
    model = model_from_text(f"g ({x}) => (float[N,5] y) {body}")
    shape = [d.dim_value or 32 for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = {"x": np.random.default_rng(3).standard_normal(shape).astype(np.float32)}
    options = CompileOptions(target="qonnx", qonnx_form=form)
    files = bench_finn.write_network("network", (model, samples), options, tmp_path)
    found = bench_finn.run_finn(python, *files)
    assert all_is_hardware(found)
    assert not any(stage["flipped"] for stage in found["stages"])


def test_the_environment_has_the_version_of_the_figures():
    (requirement,) = bench_finn.REQUIREMENTS
    assert requirement == "finn-plus==1.6.1"
    assert "finn" not in make_runtimes.REQUIREMENTS
