"""What the commands show by default, with -v and with -q, on pages of 80 and 120 columns."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from snn_compile.compiler import cli, eval_cli

DIGITS = MODELS / "digits_resnet_dynamo.onnx"
CALIBRATION, TEST = MODELS / "digits_calibration.npz", MODELS / "digits_test.npz"
LAYERS = 9


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A chain of layers with long names that begin and end alike, its data, and its SNN."""
    folder = tmp_path_factory.mktemp("chain")
    body = " ".join(f"m{i} = MatMul (h{i}, w) h{i + 1} = Relu (m{i})" for i in range(LAYERS))
    model = model_from_text(
        f"g (float[N,4] h0) => (float[N,4] y) <float[4,4] w> {{ {body} y = Softmax (h{LAYERS}) }}"
    )
    rng = np.random.default_rng(0)
    weights = (np.eye(4) + rng.uniform(-0.3, 0.3, (4, 4))).astype(np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    for number, node in enumerate(model.graph.node):
        node.name = (
            f"StatefulPartitionedCall/encoder/block_{number // 2}/dense/{node.op_type};"
            "StatefulPartitionedCall/encoder/shared_kernel/ReadVariableOp"
        )
    onnx.save(model, folder / "ann.onnx")
    samples = rng.uniform(-1, 1, (40, 4)).astype(np.float32)
    np.savez(folder / "data.npz", h0=samples, labels=np.arange(40) % 4)
    np.savez(folder / "calib.npz", h0=samples)
    arguments = [folder / "ann.onnx", "-o", folder / "snn.onnx", "-q"]
    run(cli.main, *arguments, "--calibration", folder / "calib.npz")
    return folder


def compiled(chain, tmp_path, *options):
    arguments = [chain / "ann.onnx", "-o", tmp_path / "snn.onnx"]
    return run(cli.main, *arguments, "--calibration", chain / "calib.npz", *options)


def evaluated(chain, *options):
    arguments = [chain / "ann.onnx", chain / "snn.onnx", "--data", chain / "data.npz"]
    return run(eval_cli.main, *arguments, "--no-latency", *options)


@pytest.fixture(params=[80, 120])
def page(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


def rows(text, first):
    """Names in the first column of the tables that begin with this title."""
    found, open_ = [], False
    for line in text.splitlines():
        if line.startswith("┃"):
            open_ = line.split("┃")[1].strip() in ("", first)
        elif line.startswith("│") and open_:
            found.append(line.split("│")[1].strip())
    return found


def shown(lines):
    """Names and errors in the table of the neurons with the largest ones."""
    found = (re.fullmatch(r"  (\S+)  Relu +\d+ +(\S+%)", line.rstrip()) for line in lines)
    return [(one[1], one[2]) for one in found if one]


def test_a_compilation_in_short(chain, tmp_path, page):
    text = compiled(chain, tmp_path, "--report", tmp_path / "r.json").stdout
    lines = text.splitlines()
    assert 10 <= len(lines) <= 20
    assert all(len(line) <= page for line in lines if not line.startswith("wrote"))
    levels = re.fullmatch(r"9 neurons of (\d+) to (\d+) levels: 9 Relu", lines[0])
    assert 16 <= int(levels[1]) < 32 < int(levels[2]) <= 128
    assert "8 of 9 linear operators read spikes" in text
    assert "  1 Softmax (…" in text and "no linear operator reads it" in " ".join(text.split())
    assert "--encode-input" in text
    assert "neurons with the largest error" in text and len(shown(lines)) == 5
    report = json.loads((tmp_path / "r.json").read_text())
    worst = sorted((neuron["error"] for neuron in report["neurons"]), reverse=True)[:5]
    assert [error for _, error in shown(lines)] == [f"{error:.2%}" for error in worst]
    assert len({name for name, _ in shown(lines)}) == 5
    assert "y: agreement " in text and "relative error" in text
    assert "agree bit for bit" in text
    assert f"the report {tmp_path / 'r.json'}" in text and "-v shows" not in text
    assert re.search(r"\nestimates?: (16|64) levels keep about ", text)


def test_a_compilation_in_full(chain, tmp_path, page):
    text = compiled(chain, tmp_path, "-v").stdout
    assert all(len(line) <= page for line in text.splitlines() if not line.startswith("wrote"))
    names = rows(text, "neuron")
    assert len(set(names)) == LAYERS and len(names) % LAYERS == 0
    assert len(set(rows(text, "node"))) == 2 * LAYERS + 1
    assert "[1] reads the network's own input" in text
    assert "clipped" not in text  # of multi-threshold neurons alone


def test_an_evaluation_in_short(chain, page):
    lines = evaluated(chain).stdout.splitlines()
    assert 5 <= len(lines) <= 20
    assert all(len(line) <= page for line in lines)
    assert lines[0] == "40 samples, with 95 % intervals, output y"
    assert [line.split()[0] for line in lines if line.startswith("  ") and "[" in line] == [
        "ANN",
        "SNN",
    ]
    assert any(line.startswith("energy per sample, estimates") for line in lines)
    assert any("spikes per sample" in line for line in lines)


def test_an_evaluation_in_full(chain, page):
    text = evaluated(chain, "--verbose").stdout
    assert all(len(line) <= page for line in text.splitlines())
    assert len(set(rows(text, "neuron"))) == LAYERS
    assert len(set(rows(text, "layer"))) == LAYERS
    for line in text.splitlines():
        assert line.count("[") == line.count("]")  # no interval is broken


def test_piped_tables_are_as_wide_as_their_cells(chain, tmp_path):
    name = "StatefulPartitionedCall/encoder/block_3/dense/Relu;"
    for text in (compiled(chain, tmp_path, "-v").stdout, evaluated(chain, "-v").stdout):
        assert any(name in line and "│ Relu" in line for line in text.splitlines())


def test_quiet_says_nothing(chain, tmp_path):
    result = compiled(chain, tmp_path, "--quiet")
    assert (result.stdout, result.stderr) == ("", "")
    run(cli.main, chain / "ann.onnx", "-o", tmp_path / "synthetic.onnx", "-q")
    assert (tmp_path / "synthetic.onnx").is_file()
    result = evaluated(chain, "-q", "--html", tmp_path / "page.html")
    assert (result.stdout, result.stderr) == ("", "")
    assert (tmp_path / "page.html").is_file()
    result = evaluated(chain, "-q", "--json")
    assert json.loads(result.stdout)["samples"] == 40 and result.stderr == ""


def test_quiet_says_what_is_wrong(tmp_path):
    for command in (cli.main, eval_cli.main):
        arguments = [str(tmp_path / "no.onnx"), "-q"]
        arguments += ["--data", str(TEST)] if command is eval_cli.main else []
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code in (2, 3) and "error: " in result.stderr


def test_only_the_first_warnings_are_shown(tmp_path):
    """Of activations that never fire, each of which has one."""
    names = range(8)  # the first is read by another Relu, which fires
    inputs = ", ".join(f"float[N,3] x{i}" for i in names)
    body = " ".join(f"n{i} = Abs (x{i}) m{i} = Neg (n{i}) r{i} = Relu (m{i})" for i in names)
    total = ", ".join(f"r{i}" for i in names)
    model = model_from_text(
        f"g ({inputs}) => (float[N,3] y) {{ {body} s = Relu (x0) y = Sum (s, {total}) }}"
    )
    onnx.save(model, tmp_path / "m.onnx")
    samples = np.random.default_rng(0).uniform(0.1, 1, (8, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", **{f"x{i}": samples for i in names})
    arguments = [
        tmp_path / "m.onnx",
        "-o",
        tmp_path / "s.onnx",
        "--calibration",
        tmp_path / "d.npz",
    ]
    short, full = run(cli.main, *arguments).stderr, run(cli.main, *arguments, "-v").stderr
    assert full.count("warning: ") == 7
    assert short.count("warning: ") == 6 and "and 2 more warnings; -v shows them" in short


def test_the_result_has_a_name_of_its_own_if_none_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(cli.main, DIGITS, "--calibration", CALIBRATION)
    assert "wrote digits_resnet_dynamo_snn.onnx" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["digits_resnet_dynamo_snn.onnx"]


def test_the_name_follows_the_target():
    for target, name in (("int8", "a.b_snn.onnx"), ("nir", "a.b_snn.nir")):
        assert str(cli.default_output(MODELS / "a.b.onnx", target)) == name
