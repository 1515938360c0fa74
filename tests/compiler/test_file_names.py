"""File names that are not UTF-8: they are taken, and shown escaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from helpers import model_from_text
from snn_compile.compiler.errors import readable

COMPILE = "from snn_compile.compiler.cli import main; main()"
EVALUATE = "from snn_compile.compiler.eval_cli import main; main()"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"model.onnx", "model.onnx"),
        ("mod\u00e8le.onnx".encode(), "mod\u00e8le.onnx"),
        (b"mod\xe8le.onnx", "mod\\xe8le.onnx"),
        (b"\xff\xfe", "\\xff\\xfe"),
    ],
)
def test_bytes_that_are_no_text_are_shown_as_numbers(name, shown):
    assert readable(name.decode("utf-8", "surrogateescape")) == shown


def test_other_surrogates_are_shown_too():
    assert readable("a\ud800b") == "a\\ud800b"


@pytest.fixture
def folder(tmp_path):
    """A folder in which model and data have names of other encodings."""
    here = tmp_path / os.fsdecode(b"d\xe9")
    try:
        here.mkdir()
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    model = model_from_text(
        "g (float[N,8] x) => (float[N,4] y) <float[8,500] a, float[500,4] b> {"
        "h = MatMul (x, a)  r = Relu (h)  y = MatMul (r, b) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, label=np.zeros(32, np.int64))
    (tmp_path / "m.onnx").rename(here / os.fsdecode(b"m\xff.onnx"))
    (tmp_path / "x.npz").rename(here / os.fsdecode(b"x\xfe.npz"))
    return here


def run(folder, code, *arguments, **environment):
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-c", code.encode(), *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    assert b"internal error" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).decode("utf-8")


@pytest.mark.parametrize("report", ["r\udcfd.json", "r\udcfd.html"])
def test_compiling(folder, report):
    if report.endswith("html"):
        pytest.importorskip("jinja2", reason="needs the extra 'report'")
    report = os.fsencode(report)
    model, data, out = b"m\xff.onnx", b"x\xfe.npz", b"o\xfc.onnx"
    code, text = run(
        folder, COMPILE, model, b"-o", out, b"--calibration", data, b"--report", report
    )
    assert code == 0
    assert "wrote o\\xfc.onnx" in text
    assert "x\\xfe.npz: array 'label' is not read, no input is called so; is it 'labels'?" in text
    written = (folder / os.fsdecode(report)).read_text("utf-8")
    if report.endswith(b"json"):
        assert json.loads(written)["model"]["file"] == "m\\xff.onnx"
    else:
        assert "m\\xff.onnx" in written


def test_evaluating(folder):
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    model, data, out = b"m\xff.onnx", b"x\xfe.npz", b"o\xfc.onnx"
    assert run(folder, COMPILE, model, b"-o", out, b"--calibration", data)[0] == 0
    html = [b"--html", b"e\xfb.html"]
    code, text = run(
        folder, EVALUATE, model, out, b"--data", data, b"--no-latency", *html, b"--json"
    )
    assert code == 0
    assert json.loads(text[: text.rindex("}") + 1])["snn"]["file"] == "o\\xfc.onnx"
    assert "o\\xfc.onnx" in (folder / os.fsdecode(html[1])).read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([b"no\xf0.onnx", b"-o", b"o.onnx"], 3, "no\\xf0.onnx: no such file"),
        ([b"x\xfe.npz", b"-o", b"o.onnx"], 3, "x\\xfe.npz: not an ONNX model"),
        (
            [b"m\xff.onnx", b"-o", b"o.onnx", b"--calibration", b"n\xf0.npz"],
            4,
            "n\\xf0.npz: no such file",
        ),
        ([b"m\xff.onnx", b"-o", b"m\xff.onnx"], 2, "m\\xff.onnx"),
    ],
)
def test_refusals(folder, arguments, code, says):
    got, text = run(folder, COMPILE, *arguments)
    assert got == code
    assert says in text


def test_names_of_utf8_in_a_locale_without(folder):
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    name = "m\u00fc.onnx".encode()
    (folder / os.fsdecode(b"m\xff.onnx")).rename(folder / os.fsdecode(name))
    code, _ = run(
        folder,
        COMPILE,
        *(name, b"-o", b"o.onnx", b"--calibration", b"x\xfe.npz", b"--report", b"r.html"),
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert code == 0
    assert "m\u00fc.onnx" in (folder / "r.html").read_text("utf-8")
