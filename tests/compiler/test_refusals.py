"""What a user, or a script, sees when the command cannot do what it is asked: exit code, message
and the files that are left. Limits, pipes and signals get processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import MODELS
from helpers import model_from_text
from onnx import helper
from snn_compile.compiler.cli import main

DIGITS = MODELS / "digits_resnet_dynamo.onnx"
COMMAND = [sys.executable, "-c", "from snn_compile.compiler.cli import main; main()"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def snn_compile(*arguments, **options):
    options = {"capture_output": True, "text": True, "check": False} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], **options)


def files_of(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path):
    """A small network, something that was there before, and a place for everything else."""
    model = model_from_text("""
        g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { a = MatMul (x, w) y = Relu (a) }""")
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "old.onnx").write_bytes(b"old")
    return tmp_path


def refused(folder, code, message, *arguments, command=main, **options):
    """The command fails as documented and leaves everything as it was.

    In this process, or with options of :func:`subprocess.run` in one of its own.
    """
    before = files_of(folder)
    if options:
        result = snn_compile(*arguments, **options)
        returned = result.returncode
    else:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        returned = result.exit_code
    assert returned == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert files_of(folder) == before


# Files that are no models -----------------------------------------------------------------------


def other_message():
    """A well-formed protobuf, of another kind."""
    return helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [1, 2]).SerializeToString()


def library():
    return onnx.FunctionProto(name="f", domain="d", input=["x"]).SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\0" * 100, "not an ONNX model"),
        (b"import torch\n" * 20, "ONNX model"),
        (np.random.default_rng(0).bytes(20_000), "not an ONNX model"),
        (DIGITS.read_bytes()[:-1000], "not an ONNX model, or truncated"),
        (DIGITS.read_bytes()[:100], "ONNX model"),
        (b"PK\3\4" + bytes(100), "not an ONNX model"),
        (other_message(), "ONNX model"),
        (library(), "ONNX model"),
    ],
    ids=["empty", "zeros", "text", "random", "truncated", "header", "zip", "tensor", "function"],
)
def test_files_that_are_no_models(folder, content, message):
    (folder / "bad.onnx").write_bytes(content)
    refused(folder, 3, message, folder / "bad.onnx", "-o", folder / "old.onnx")


@posix
def test_places_that_hold_no_model(folder):
    os.mkfifo(folder / "pipe")
    for path, message in [
        (folder, "is a folder"),
        (folder / "none.onnx", "no such file"),
        (folder / "pipe", "no such file"),
        (Path("/dev/zero"), "no such file"),
    ]:
        refused(folder, 3, message, path, "-o", folder / "old.onnx")


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_model(folder):
    (folder / "net.onnx").chmod(0)
    result = snn_compile(folder / "net.onnx", "-o", folder / "old.onnx")
    assert result.returncode == 3
    assert "cannot be read" in result.stderr


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder(folder):
    (folder / "locked").mkdir(mode=0o500)
    refused(folder, 2, "is not writable", folder / "net.onnx", "-o", folder / "locked" / "s.onnx")


# Networks that cannot be fed, run or compared ---------------------------------------------------


def refuses_network(folder, message, text, edit=None, code=3):
    model = model_from_text(text)
    if edit is not None:
        edit(model)
    onnx.save(model, folder / "bad.onnx")
    refused(folder, code, message, folder / "bad.onnx", "-o", folder / "old.onnx")


RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"


def test_networks_without_outputs_shapes_or_samples(folder):
    def drop_shape(model):
        model.graph.input[0].type.tensor_type.ClearField("shape")

    drop_outputs = lambda model: model.graph.ClearField("output")  # noqa: E731
    refuses_network(folder, "the model has no outputs", RELU, drop_outputs)
    refuses_network(folder, "input 'x' has no shape", RELU, drop_shape)
    empty = "g (float[0,3] x) => (float[0,3] y) { y = Relu (x) }"
    refuses_network(folder, "input 'x' has the shape [0, 3], so there is nothing to feed", empty)


@pytest.mark.parametrize("size", [4, 4000], ids=["small", "large"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(folder, size, value):
    def spoil(model):
        (tensor,) = model.graph.initializer
        weights = onnx.numpy_helper.to_array(tensor).copy()
        weights[1, 2] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights, "w"))

    text = f"""g (float[N,3] x) => (float[N,{size}] y) <float[3,{size}] w>
        {{ a = MatMul (x, w) y = Relu (a) }}"""
    refuses_network(folder, "the weight 'w' holds NaN or inf", text, spoil)


def test_a_tensor_beyond_memory_is_said_to_be_one(folder):
    text = """g (float[N,3] x) => (float[N,3] y) {
        s = Constant <value = int64[1] {4000000000000}> ()
        c = ConstantOfShape (s)
        k = ReduceSum <keepdims = 0> (c)
        a = Add (x, k)
        y = Relu (a) }"""
    refuses_network(folder, "error: out of memory (", text, code=1)


def test_the_runtime_writes_no_log_of_its_own(folder):
    text = """g (float[N,3] x) => (float[1,3] y) {
        s = Constant <value = int64[2] {1, 3}> () r = Reshape (x, s) y = Relu (r) }"""
    onnx.save(model_from_text(text), folder / "bad.onnx")
    result = snn_compile(folder / "bad.onnx", "-o", folder / "old.onnx")
    assert result.returncode == 3
    assert "cannot be reshaped" in result.stderr
    assert "[E:onnxruntime" not in result.stderr


# Outputs ----------------------------------------------------------------------------------------


def test_the_data_of_the_source_are_never_replaced(folder):
    model = model_from_text("""
        g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { a = MatMul (x, w) y = Relu (a) }""")
    data = {"save_as_external_data": True, "location": "s.onnx.data", "size_threshold": 0}
    onnx.save(model, folder / "apart.onnx", **data)
    source = folder / "apart.onnx"
    refused(folder, 2, "holds data of the source", source, "-o", folder / "s.onnx")
    refused(folder, 2, "holds data of the source", source, "-o", folder / "s.onnx.data")
    report = ["--report", folder / "s.onnx.data"]
    refused(folder, 2, "holds data of the source", source, "-o", folder / "t.onnx", *report)


@posix
def test_the_output_is_never_the_input(folder):
    (folder / "symbolic.onnx").symlink_to("net.onnx")
    os.link(folder / "net.onnx", folder / "hard.onnx")
    for name in ("net.onnx", "symbolic.onnx", "hard.onnx", "./sub/../net.onnx"):
        (folder / "sub").mkdir(exist_ok=True)
        model, output = folder / "net.onnx", folder / name
        refused(folder, 2, "is the model itself", model, "-o", output)
        refused(folder, 2, "is the model itself", model, "-o", folder / "s", "--report", output)


@posix
def test_pipes_and_devices_are_not_replaced_by_files(folder):
    os.mkfifo(folder / "pipe")
    for output in (folder / "pipe", "/dev/null", "/dev/full"):
        refused(folder, 2, "is not a regular file", folder / "net.onnx", "-o", output)
    assert not Path("/dev/null").is_file()


def test_report_and_output_are_two_files(folder):
    output = folder / "old.onnx"
    arguments = [folder / "net.onnx", "-o", output, "--report"]
    refused(folder, 2, "is the output too", *arguments, output)
    refused(folder, 2, "is the output too", *arguments, folder / "." / "old.onnx")


@linux
def test_a_file_size_limit_leaves_nothing(folder):
    """What a full disk does, without one: writing fails in the middle of the file."""
    import resource

    def limited_to(size):
        return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}

    plain = ["--no-sequential", "--no-bias-correction", "--no-compensation"]  # no temporary tensors
    arguments = [DIGITS, "-o", folder / "old.onnx", "--report", folder / "report.json"]
    # More than the report needs, less than the model does.
    refused(
        folder, 2, "old.onnx: cannot be written (File", *arguments, *plain, **limited_to(60_000)
    )
    refused(
        folder, 2, "report.json: cannot be written (File", *arguments, *plain, **limited_to(4_000)
    )
    refused(folder, 2, "a disk is full", *arguments, **limited_to(100))  # a temporary file


@linux
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_leaves_nothing(folder):
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "old.onnx").write_bytes(b"old")
        refused(folder, 2, "No space left on device", DIGITS, "-o", disk / "old.onnx")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Standard output --------------------------------------------------------------------------------


def test_a_reader_that_goes_away_changes_nothing(folder):
    """`| head -1`: the reader closes the pipe before anything is written."""
    read, write = os.pipe()
    os.close(read)
    try:
        result = snn_compile(
            folder / "net.onnx", "-o", folder / "s.onnx",
            stdout=write, stderr=subprocess.PIPE, capture_output=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert result.returncode == 0, result.stderr
    assert "Broken" not in result.stderr
    assert "Exception ignored" not in result.stderr
    onnx.checker.check_model(folder / "s.onnx")


def test_warnings_and_progress_that_nobody_reads_are_lost(folder):
    read, write = os.pipe()
    os.close(read)
    try:
        result = snn_compile(
            folder / "net.onnx", "-o", folder / "s.onnx",
            stderr=write, stdout=subprocess.PIPE, capture_output=False,
        )  # fmt: skip
        assert result.returncode == 0
        assert "wrote" in result.stdout
        failed = snn_compile(folder / "none.onnx", "-o", folder / "t.onnx",
            stderr=write, stdout=subprocess.PIPE, capture_output=False,
        )  # fmt: skip
        assert failed.returncode == 3
    finally:
        os.close(write)


@linux
def test_results_that_cannot_be_shown_are_an_error(folder):
    with Path("/dev/full").open("w") as full:
        refused(
            folder, 2, "standard output cannot be written (No space left on device)",
            folder / "net.onnx", "-o", folder / "old.onnx",
            stdout=full, stderr=subprocess.PIPE, capture_output=False,
        )  # fmt: skip


# Signals ----------------------------------------------------------------------------------------

# The command, but it announces a moment on stderr and goes on, slowly, until a signal arrives.
ANNOUNCE = """
import sys, threading
import snn_compile.compiler.{module} as module
real = module.{function}
def announced(*arguments, **named):
    print("reached", file=sys.stderr, flush=True)
    threading.Event().wait(60)
    return real(*arguments, **named)
module.{function} = announced
from snn_compile.compiler.cli import main
main()
"""


@posix
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted: nothing was written"),
        (signal.SIGTERM, 143, "stopped by SIGTERM: nothing was written"),
        (getattr(signal, "SIGHUP", signal.SIGTERM), 129, "stopped by SIGHUP: nothing was written"),
    ],
)
@pytest.mark.parametrize(
    ("module", "function"),
    [("model_io.load", "check_source"), ("choose_neurons", "calibrate"), ("model_io.save", "_sync")],
)
def test_signals_leave_nothing_behind(folder, number, code, message, module, function):
    """While loading, calibrating and, with all temporary files there, saving."""
    before = files_of(folder)
    report = ["--report", folder / "report.json"]
    script = ANNOUNCE.format(module=module, function=function)
    process = subprocess.Popen(
        [sys.executable, "-c", script, folder / "net.onnx", "-o", folder / "old.onnx", *report],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stderr.readline, "")
    assert any(line == "reached\n" for line in lines)
    if function == "_sync":
        assert len(list(folder.glob(".snn-compile-*"))) == 2
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert message in stderr
    assert "Traceback" not in stderr
    assert files_of(folder) == before


ENDLESS = """
    g (float[2,3] x) => (float[2,3] y) {
        r = Relu (x)
        count = Constant <value = int64 {2147483648}> ()
        go = Constant <value = bool {1}> ()
        y = Loop (count, go, r) <body = b (int64 i, bool c, float[2,3] s)
            => (bool c2, float[2,3] s2) { c2 = Identity (c) s2 = Identity (s) }>
    }"""

# The command, but it says so whenever the runtime begins.
ANNOUNCE_RUN = """
import sys
import onnxruntime
real = onnxruntime.InferenceSession.run
def announced(*arguments, **named):
    print("reached", file=sys.stderr, flush=True)
    return real(*arguments, **named)
onnxruntime.InferenceSession.run = announced
from snn_compile.compiler.cli import main
main()
"""


@posix
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted: nothing was written"),
        (signal.SIGTERM, 143, "stopped by SIGTERM: nothing was written"),
    ],
)
def test_a_network_that_runs_for_ever_is_stopped(folder, number, code, message):
    onnx.save(model_from_text(ENDLESS), folder / "endless.onnx")
    before = files_of(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCE_RUN, folder / "endless.onnx", "-o", folder / "old.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any(line.endswith("reached\n") for line in iter(process.stderr.readline, ""))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)  # left alone it takes the better part of a day
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert message in stderr
    assert "Traceback" not in stderr
    assert files_of(folder) == before
