"""What is installed: version, command, and the wheel with and without a C++ compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
import snn_compile

REPOSITORY = Path(__file__).parent.parent


def module(*arguments):
    command = [sys.executable, "-m", "snn_compile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_version_is_that_of_the_metadata():
    assert snn_compile.__version__ == metadata.version("snn-compile")
    assert module("--version").stdout == f"snn-compile, version {snn_compile.__version__}\n"


def test_the_package_runs_as_the_command():
    result = module("--help")
    assert result.stdout.startswith("Usage: snn-compile [OPTIONS] MODEL")
    result = module("none.onnx", "-o", "snn.onnx")
    assert result.returncode == 3, result.stderr
    assert "none.onnx" in result.stderr


def built(folder, **environment):
    """Tag, whether it is for one platform, and files of the wheel that pip builds."""
    pytest.importorskip("scikit_build_core")
    if shutil.which("cmake") is None:
        pytest.skip("building needs cmake")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    # Not the folder of others that build here, nor their compiler.
    command += [f"--config-settings=build-dir={folder / 'build'}", f"--wheel-dir={folder}"]
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [*command, str(REPOSITORY)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        fields = Parser().parsestr(wheel.read(about).decode())
    assert path.name == f"snn_compile-{snn_compile.__version__}-{fields['Tag']}.whl"
    return fields["Tag"], fields["Root-Is-Purelib"] == "false", names


def sources():
    """Every file of the three folders that is to be installed."""
    skipped = ("__pycache__", "src", "examples")
    return {
        f"snn_compile/{path.relative_to(REPOSITORY).as_posix()}"
        for folder in ("compiler", "passes", "runtime_ops")
        for path in (REPOSITORY / folder).glob("**/*")
        if path.is_file() and not set(skipped).intersection(path.parts)
    }


TOP = {"snn_compile/__init__.py", "snn_compile/__main__.py", "snn_compile/py.typed"}
LIBRARY = {"snn_compile/runtime_ops/libsnn_ops.so"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the library's name is that of Linux")
def test_one_wheel_serves_all_pythons_of_a_platform(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    tag, of_platform, names = built(tmp_path)
    assert tag == f"py3-none-linux_{platform.machine()}"
    assert of_platform
    installed = {name for name in names if name.startswith("snn_compile/")}
    assert installed == sources() | TOP | LIBRARY


@pytest.mark.slow
def test_without_a_compiler_the_wheel_has_no_library(tmp_path):
    tag, of_platform, names = built(tmp_path, CXX=str(tmp_path / "none"))
    assert tag == "py3-none-any"
    assert not of_platform
    installed = {name for name in names if name.startswith("snn_compile/")}
    assert installed == sources() | TOP
