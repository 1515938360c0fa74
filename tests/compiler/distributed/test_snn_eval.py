"""``snn-eval`` on workers of Dask: the same result, also where one is killed or it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS
from snn_compile.compiler import CompileOptions, compile_model

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs signals and /proc")

FAST = CompileOptions(sequential=False, bias_correction=False, compensation=False)
DIGITS = MODELS / "digits_resnet_dynamo.onnx"
COMMAND = "from snn_compile.compiler.eval_cli import main; main()"
SAMPLES = 30_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A compiled network, and samples that take some seconds."""
    path = tmp_path_factory.mktemp("digits")
    onnx.save(compile_model(DIGITS, MODELS / "digits_calibration.npz", FAST).model, path / "s.onnx")
    with np.load(MODELS / "digits_test.npz") as known:
        arrays = {name: np.resize(known[name], (SAMPLES, *known[name].shape[1:])) for name in known}
    np.savez(path / "d.npz", **arrays)
    return path


def started(folder, *options):
    """The command in a process and a group of its own, as a terminal has it."""
    arguments = [DIGITS, "s.onnx", "--data", "d.npz", "--no-latency", "--no-flips", "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments), "--threads", "1", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result_of(process):
    """What it found, but for the command."""
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return {name: one for name, one in json.loads(stdout).items() if name != "command"}


@pytest.fixture(scope="module")
def alone(folder):
    return result_of(started(folder))


def children_of(pid):
    """Processes below one, by name of their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def workers_of(process):
    """Processes of workers, when they are there and have worked for a moment."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        there = [pid for pid in children_of(process.pid) if _is_worker(pid)]
        if len(there) >= 2 and all(_cpu(pid) > 1.5 for pid in there):
            return there
        time.sleep(0.02)
    raise AssertionError("no workers came, or the work was done too early")


def _is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _cpu(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def dask(what):
    return sys.executable, "-m", f"distributed.cli.dask_{what}"


def test_two_workers_find_what_one_process_finds(folder, alone):
    assert result_of(started(folder, "--workers", "2")) == alone


@pytest.mark.slow
def test_a_running_cluster_is_used(folder, alone):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        for _ in range(2):  # what workers keep of a run is not in the way of the next
            found = result_of(started(folder, "--scheduler", cluster.scheduler_address))
            assert found == alone


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(folder, alone):
    process = started(folder, "--workers", "2")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert result_of(process) == alone


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_one_line(folder):
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as scheduler:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        with subprocess.Popen(
            [*dask("worker"), address, "--nthreads", "1", "--no-dashboard"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as worker:
            process = started(folder, "--scheduler", address, "-q")
            time.sleep(4)
            os.killpg(scheduler.pid, signal.SIGKILL)
            _, stderr = process.communicate(timeout=120)
            os.killpg(worker.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert stderr.count("\n") == 1
    assert "the scheduler is gone" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["here", "on workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_an_interrupted_run_goes_on(folder, alone, options, number):
    kept = folder / f"{number}{len(options)}.npz"
    process = started(folder, *options, "--resume", kept.name)
    until = time.monotonic() + 60
    while not kept.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    children = children_of(process.pid)
    os.killpg(process.pid, number)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert process.returncode == expected[number], stderr
    time.sleep(0.5)
    assert not [pid for pid in children if _is_worker(pid)]
    assert "Traceback" not in stderr
    assert result_of(started(folder, *options, "--resume", kept.name)) == alone
    assert not kept.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "0 is not in the range"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "exclude each other"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no scheduler of Dask answers"),
        (["--resume", "no/such/folder.npz"], "does not exist"),
        (["--resume", "d.npz"], "is read too"),
    ],
)
def test_what_is_refused(folder, options, message):
    process = started(folder, *options)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in stderr
