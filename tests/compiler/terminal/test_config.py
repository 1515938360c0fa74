"""Options in a TOML file: every one of them, refusals that name them, and what is written."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from conftest import MODELS
from snn_compile.compiler import CompileOptions, cli
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.options import OPTIONS
from snn_compile.compiler.terminal.config import config_text, read_config

DIGITS, CALIBRATION = MODELS / "digits_resnet_dynamo.onnx", MODELS / "digits_calibration.npz"


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def seen(monkeypatch):
    """What reaches the compiler, which does nothing."""
    found = []

    def compile_(*arguments):
        found.append(arguments[2])
        raise UsageError("seen")

    monkeypatch.setattr("snn_compile.compiler.pipeline.compile_model", compile_)
    return found


def other(name, option, tmp_path):
    """A value that is not the default, in Python and in TOML."""
    if option.is_switch:
        return not option.default, json.dumps(not option.default)
    if option.several:
        return ("a*", 'b"\\'), '["a*", "b\\"\\\\"]'
    if option.choices:
        value = next(c for c in option.choices if c != option.default)
        return value, json.dumps(value)
    if option.numbers is not None:
        value = option.numbers.kind(max(1 if option.default != 1 else 2, option.numbers.least))
        return value, repr(value)
    if option.text:
        return "tcp://here:8786", '"tcp://here:8786"'
    return tmp_path / name, json.dumps(str(tmp_path / name))


@pytest.mark.parametrize("dash", ["-", "_"])
def test_every_option_can_be_in_the_file(tmp_path, seen, dash):
    values = {name: other(name, option, tmp_path) for name, option in OPTIONS.items()}
    lines = [f"{name.replace('_', dash)} = {toml}" for name, (_, toml) in values.items()]
    (tmp_path / "c.toml").write_text("\n".join(lines) + f'\noutput = "{tmp_path}/s.onnx"\n')
    run("m.onnx", "--config", tmp_path / "c.toml")
    assert seen == [CompileOptions(**{name: value for name, (value, _) in values.items()})]


def test_the_command_line_wins(tmp_path, seen):
    (tmp_path / "c.toml").write_text('levels = 8\nsequential = false\nexclude = ["a", "b"]\n')
    arguments = ["m.onnx", "-o", tmp_path / "s.onnx", "--config", tmp_path / "c.toml"]
    run(*arguments)
    run(*arguments, "--levels", "4", "--sequential", "--exclude", "c")
    assert seen == [
        CompileOptions(levels=8, sequential=False, exclude=("a", "b")),
        CompileOptions(levels=4, exclude=("c",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level = 8", "level is no option that a file can have; did you mean levels"),
        ("calibartion = 'a'", "did you mean calibration"),
        ("zzz = 1", "zzz is no option that a file can have"),
        ("check = true", "check is no option that a file can have"),
        ("config = 'c.toml'", "config is no option"),
        ("levels = 0", "levels = 0 cannot be used; give a whole number from 1 to 65536"),
        ("levels = 'many'", 'levels = "many" cannot be used; give a whole number'),
        ("levels = true", "levels = true cannot be used; give a whole number"),
        ("sequential = 1", "sequential = 1 cannot be used; give true or false"),
        ("calibrator = 'guess'", 'calibrator = "guess" cannot be used; give auto, density'),
        ("exclude = 'a'", 'exclude = "a" cannot be used; give an array of texts'),
        ("exclude = [1]", "exclude = [1] cannot be used; give an array of texts"),
        ("dump-dir = 1", "dump-dir = 1 cannot be used; give a text"),
        ("output = true", "output = true cannot be used; give a text"),
        ("verbose = 1", "verbose = 1 cannot be used; give true or false"),
        ("time-axis = true\ntime_axis = true", "time_axis is given twice"),
        ("[options]\nlevels = 8", "options is no option that a file can have"),
        ("levels = ", "is no TOML"),
        ("levels = 8\nlevels = 9", "is no TOML"),
        ("\udcff", "is no TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run(DIGITS, "-o", tmp_path / "s.onnx", "--config", path)
    assert result.exit_code == 2
    assert message in result.stderr and str(path) in result.stderr
    assert not (tmp_path / "s.onnx").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    result = run(DIGITS, "--config", tmp_path / "no.toml")
    assert result.exit_code == 2 and "no.toml: cannot be read" in result.stderr


def test_what_was_used_is_written_and_gives_the_same_again(tmp_path):
    first, second, saved = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "c.toml"
    arguments = ["--calibration", CALIBRATION, "--levels", 8, "--no-compensation", "-q"]
    arguments += ["--exclude", "node_relu_1", "--save-config", saved]
    result = run(DIGITS, "-o", first, *arguments)
    assert result.exit_code == 0, result.output
    found = read_config(saved, cli.main)
    assert found == {
        "output": str(first),
        "calibration": str(CALIBRATION),
        "levels": 8,
        "compensation": False,
        "exclude": ["node_relu_1"],
    }
    assert "# sequential = true" in saved.read_text()
    assert run(DIGITS, "-o", second, "--config", saved, "-q").exit_code == 0
    assert first.read_bytes() == second.read_bytes()


def test_every_option_survives_being_written(tmp_path):
    used = {name: other(name, option, tmp_path)[0] for name, option in OPTIONS.items()}
    path = tmp_path / "c.toml"
    path.write_text(config_text(cli.main, used), "utf-8")
    found = read_config(path, cli.main)
    assert {name: str(value) for name, value in found.items()} == {
        name: str(list(value) if isinstance(value, tuple) else value)
        for name, value in used.items()
    }


@pytest.mark.parametrize("name", ["s.onnx", "r.json", "c.toml"])
def test_files_that_are_written_have_names_of_their_own(tmp_path, name):
    arguments = ["-o", tmp_path / "s.onnx", "--report", tmp_path / "r.json"]
    result = run(DIGITS, *arguments, "--save-config", tmp_path / name, "--calibration", CALIBRATION)
    assert result.exit_code == (0 if name == "c.toml" else 2), result.output
    assert name == "c.toml" or "give the file of options another name" in result.stderr


@pytest.mark.parametrize(
    ("given", "typed", "toml"),
    [
        (["--mean", "0.5,0.25,1", "--std", "2"], {"mean": (0.5, 0.25, 1.0), "std": (2.0,)}, None),
        (["--size", "8x9"], {"size": (8, 9)}, None),
        (["--size", "8"], {"size": (8,)}, None),
        ([], {"mean": (0.5,), "std": (1.0, 2.0)}, "mean = 0.5\nstd = [1, 2.0]"),
        ([], {"size": (8, 9), "mean": (1.0, 2.0)}, 'size = "8x9"\nmean = "1,2"'),
        ([], {"size": (8,)}, "size = 8"),
    ],
)
def test_numbers_of_images_survive_the_file(tmp_path, monkeypatch, given, typed, toml):
    found = []

    def compile_(_, data, *_others):
        found.append(data._image_options)
        raise UsageError("seen")

    monkeypatch.setattr("snn_compile.compiler.pipeline.compile_model", compile_)
    path = tmp_path / "c.toml"
    if toml is None:
        context = cli.main.make_context("snn-compile", ["m.onnx", *given])
        toml = config_text(cli.main, context.params)
    path.write_text(toml)
    run("m.onnx", "--config", path, "-o", tmp_path / "s.onnx", "--calibration", tmp_path)
    assert [{name: getattr(images, name) for name in typed} for images in found] == [typed]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mean = ["x"]', "give a number, or one per channel"),
        ("std = [[1]]", "give a number, or one per channel"),
        ("size = [8.5, 9]", "give one number, or the height and the width"),
        ("preset = ['imagenet']", "give a text or a number"),
        ("calibration = ['a', 'b']", "give a text or a number"),
        ("report = [1]", "give a text or a number"),
    ],
)
def test_what_is_no_value_of_an_image_option_is_refused(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    result = run(DIGITS, "-o", tmp_path / "s.onnx", "--config", path)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


@pytest.mark.parametrize("flag", ["-o", "--report"])
def test_the_file_of_options_is_not_overwritten_by_results(tmp_path, flag):
    path = tmp_path / "c.toml"
    path.write_text("levels = 8\n")
    others = ["-o", tmp_path / "s.onnx"] if flag != "-o" else []
    result = run(DIGITS, "--config", path, *others, flag, path)
    assert result.exit_code == 2 and "is read too" in result.stderr
    assert path.read_text() == "levels = 8\n"


def test_the_file_of_options_can_be_written_anew(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("levels = 8\n")
    arguments = ["--calibration", CALIBRATION, "-o", tmp_path / "s.onnx", "-q", "--scale", 0.5]
    result = run(DIGITS, "--config", path, *arguments, "--save-config", path)
    assert result.exit_code == 0, result.output
    found = read_config(path, cli.main)
    assert (found["levels"], found["scale"]) == (8, 0.5)
