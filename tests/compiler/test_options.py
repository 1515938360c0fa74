"""Options: what they become, what is refused and how, and that the command line is made of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from snn_compile.compiler import CompileOptions, cli, compile_model
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.options import GROUPS, OPTIONS, flag
from snn_compile.compiler.targets import resolve


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"levels": 32, "neuron": "auto", "encode": "all", "shortcuts": "membrane"}),
        ({"levels": 256}, {"levels": 256, "neuron": "multi-threshold"}),
        ({"timesteps": 4}, {"levels": 1, "neuron": "signed", "firing": "immediate"}),
        ({"timesteps": 4, "firing": "delayed"}, {"neuron": "multi-threshold"}),
        ({"timesteps": 4, "levels": 3}, {"levels": 3, "encode": "all"}),
        (
            {"timesteps": 4, "target": "nir"},
            {
                "levels": 1,
                "neuron": "multi-threshold",
                "encode": "activations",
                "shortcuts": "spikes",
                "firing": "immediate",
            },
        ),
        ({"timesteps": 4, "target": "nir", "encode": "all"}, {"encode": "all"}),
        (
            {"target": "nir"},
            {
                "levels": 8,
                "neuron": "multi-threshold",
                "encode": "activations",
                "shortcuts": "spikes",
            },
        ),
        ({"target": "nir", "levels": 16}, {"levels": 16}),
        ({"calibrator": "percentile"}, {"percentile": 99.9}),
        ({"search_scale": True}, {"trials": 20, "spike_weight": 0.5, "seed": 0}),
        ({"search_scale": True, "spike_weight": 0}, {"spike_weight": 0}),
    ],
    ids=str,
)
def test_defaults_that_depend_on_others(given, expected):
    found = resolve(CompileOptions(**given))
    assert {name: getattr(found, name) for name in expected} == expected
    assert resolve(found) == found


def test_options_without_effect_stay_empty():
    found = resolve(CompileOptions())
    assert found.settings() == CompileOptions().settings() | {
        "levels": 32,
        "neuron": "auto",
        "granularity": "channel",
        "encode": "all",
        "shortcuts": "membrane",
        "levels_budget": 1.0,
    }
    assert resolve(CompileOptions(), synthetic=True) == replace(found, seed=0, levels_budget=None)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.choices])
def test_unknown_names_are_refused_with_those_that_there_are(name):
    *choices, last = OPTIONS[name].choices
    listed = f"{flag(name)} 'foo' cannot be used; give {', '.join(choices)} or {last}"
    with pytest.raises(UsageError, match=listed):
        resolve(CompileOptions(**{name: "foo"}))


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.numbers])
def test_numbers_out_of_range_are_refused(name):
    numbers = OPTIONS[name].numbers
    wrong = [math.nan, math.inf, -math.inf, "8", True, numbers.least - 1, numbers.most + 1]
    wrong += [numbers.least] if numbers.above else []
    wrong += [8.5, np.int64(8)] if numbers.kind is int else []
    for value in wrong:
        with pytest.raises(UsageError, match=f"{flag(name)} .* cannot be used; give a"):
            resolve(CompileOptions(**{name: value}))


def test_values_of_another_type_are_refused():
    for given, wanted in (
        ({"strict": "yes"}, "--strict 'yes' cannot be used; give True or False"),
        ({"sequential": None}, "--sequential None cannot be used; give True or False"),
        ({"exclude": "a"}, "--exclude 'a' cannot be used; give a tuple of texts"),
        ({"exclude": ("",)}, "cannot be used; give a tuple of texts"),
        ({"scheduler": 8786}, "--scheduler 8786 cannot be used; give a text"),
        ({"dump_dir": "steps"}, "--dump-dir 'steps' cannot be used; give a pathlib.Path"),
        ({"scale": None}, "--scale None cannot be used; give a finite number above 0"),
    ):
        with pytest.raises(UsageError, match=wanted):
            resolve(CompileOptions(**given))


WITHOUT_EFFECT = [
    ({"percentile": 99.0}, "--percentile has an effect only with --calibrator percentile"),
    ({"percentile": 99.9, "calibrator": "max"}, "--percentile has an effect only with"),
    ({"trials": 3}, "--trials has an effect only with --search-scale; leave it out"),
    ({"spike_weight": 0.1}, "--spike-weight has an effect only with --search-scale"),
    ({"firing": "delayed"}, "--firing has an effect only over several --timesteps"),
    ({"firing": "immediate"}, "--firing has an effect only over several --timesteps"),
    ({"seed": 1}, "--seed has an effect only without --calibration, or with --search-scale"),
    ({"encode": "activations", "encode_input": True}, "--encode-input has an effect only with"),
    ({"timesteps": 4, "target": "nir", "encode_input": True}, "--encode-input has an effect only"),
    ({"time_axis": True}, "--time-axis needs neurons that fire immediately over several"),
]
CONTRADICTIONS = [
    ({"scale": 2.0, "search_scale": True}, "searched and given; leave out --scale or --search-s"),
    ({"timesteps": 2, "search_scale": True}, "one timestep only; leave out --timesteps"),
    ({"timesteps": 2, "calibrator": "density"}, "those of multi-threshold neurons are multiples"),
    ({"levels": 300, "calibrator": "density"}, "multi-threshold neurons, which 300 levels need, "),
    ({"levels": 256, "binary_spikes": "unary"}, "choose --binary-spikes bits, or at most 255 --l"),
    ({"target": "nir", "neuron": "staircase"}, "has no staircase neurons, use multi-threshold"),
    ({"target": "nir", "firing": "immediate"}, "--firing has an effect only over several"),
    ({"target": "nir", "timesteps": 4, "levels": 2}, "leave out --levels or --timesteps"),
    ({"target": "nir", "timesteps": 4, "firing": "delayed"}, "leave out --firing and --time-axis"),
    ({"target": "nir", "timesteps": 4, "time_axis": True}, "--firing and --time-axis"),
    ({"target": "nir", "timesteps": 4, "neuron": "signed"}, "no negative spikes; use multi-thresh"),
    ({"target": "nir", "timesteps": 4, "binary_spikes": "bits"}, "leave out --binary-spikes"),
]


@pytest.mark.parametrize(("given", "message"), WITHOUT_EFFECT + CONTRADICTIONS, ids=str)
def test_both_doors_refuse_alike(tmp_path, given, message):
    """Before any file is read; the samples are not there either."""
    with pytest.raises(UsageError, match=message):
        compile_model(tmp_path / "no.onnx", tmp_path / "no.npz", CompileOptions(**given))
    arguments = [str(tmp_path / "no.onnx"), "-o", str(tmp_path / "snn.onnx")]
    arguments += ["--calibration", str(tmp_path / "no.npz")]
    for name, value in given.items():
        arguments += [flag(name)] if value is True else [flag(name), str(value)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_every_option_reaches_the_compiler_and_no_other(monkeypatch, tmp_path):
    """As typed on the command line, each with a value that is not its default."""
    seen = []

    def compile_(*arguments):
        seen.append(arguments[2])
        raise UsageError("seen")

    monkeypatch.setattr("snn_compile.compiler.pipeline.compile_model", compile_)
    typed, expected = [], {}
    for name, option in OPTIONS.items():
        if option.is_switch:
            expected[name] = not option.default
            typed += [flag(name) if expected[name] else flag(f"no_{name}")]
        else:
            if option.choices:
                value = next(c for c in option.choices if c != option.default)
            elif option.numbers is not None:
                least = 1 if option.default != 1 else 2
                value = option.numbers.kind(max(least, option.numbers.least))
            elif option.several:
                value = ("a*", "b")
            elif option.text:
                value = "tcp://here:8786"
            else:
                value = tmp_path
            expected[name] = value
            each = value if option.several else [value]
            typed += [part for one in each for part in (flag(name), str(one))]
    CliRunner().invoke(cli.main, ["m.onnx", "-o", str(tmp_path / "snn.onnx"), *typed])
    CliRunner().invoke(cli.main, ["m.onnx", "-o", str(tmp_path / "snn.onnx")])
    assert seen == [CompileOptions(**expected), CompileOptions()]


def test_the_help_has_every_option_in_its_group_and_fits_two_screens():
    text = CliRunner().invoke(cli.main, ["--help"], terminal_width=80).output
    assert len(text.splitlines()) <= 100
    titles = [f"{group}:\n" for group in (*GROUPS, "Other")]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    for name, option in OPTIONS.items():
        at = GROUPS.index(option.group)
        section = text[places[at] : places[at + 1]]
        value = option.fallback if option.default is None else option.default
        typed = f"--[no-]{flag(name)[2:]}" if value is True else flag(name)
        assert f"  {typed} " in section
        shown = f"[{option.shown}" if value is None and option.shown else f"[{value}"
        assert option.is_switch or value in (None, ()) or shown in " ".join(section.split())


def test_the_settings_have_every_option_as_json_has_it():
    found = resolve(CompileOptions(dump_dir=Path("steps"), levels=4)).settings()
    assert list(found) == [declared.name for declared in fields(CompileOptions)]
    assert (found["dump_dir"], found["levels"]) == ("steps", 4)
