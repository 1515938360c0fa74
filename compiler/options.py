"""Every option of the compiler: its default, its meaning and its checks, once.

The fields of :class:`CompileOptions` are the options. The command line is made from them
(``cli.py``), and so are the table in README.md and the settings of the report. ``resolve``, in
:mod:`.targets`, which have defaults of their own, gives each its value, and refuses what cannot be
used, does not go together or has no effect, from the command line and from Python alike. What is
below ``compile_model`` is given resolved options.

Only the standard library is imported with this file: ``snn-compile --help`` reads it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import UsageError

#: Levels N of a neuron.
MOST_LEVELS = 1 << 16
#: Levels besides silence, of either sign, of a neuron whose levels are placed one by one.
MOST_PLACED = 255
#: Levels of one polarity from which on they can be relatively close over several octaves.
FEWEST_WIDE = 16
#: Timesteps: tensors have a row for each.
MOST_TIMESTEPS = 1024
#: Threads that compute.
MOST_THREADS = 1024
#: Processes of this machine.
MOST_WORKERS = 1024
#: Samples that run at once where the batch is fixed.
MOST_BATCH = 1024
#: The oldest opset of what is written in standard operators: Clip has had all its inputs since 12.
OLDEST_OPSET = 13

AUTO = "auto"
SCALE, STAIRCASE, MULTI_THRESHOLD, SIGNED = "scale", "staircase", "multi-threshold", "signed"
#: Levels that follow the density of the values: ``staircase.py``.
DENSITY = "density"
PERCENTILE = "percentile"
TENSOR, CHANNEL = "tensor", "channel"
#: When a neuron over several timesteps fires: as its input comes in, or once all of it is there.
IMMEDIATE, DELAYED = "immediate", "delayed"
#: What the sums of residual blocks read.
MEMBRANE, SPIKES = "membrane", "spikes"
#: What is encoded.
ALL, ACTIVATIONS = "all", "activations"
#: How spikes of several levels are sent.
UNARY, BITS = "unary", "bits"
ONNXRUNTIME, STANDARD, INT8 = "onnxruntime", "standard", "int8"
QONNX, NIR = "qonnx", "nir"
#: How neurons of target qonnx are written.
THRESHOLDS, QUANT = "thresholds", "quant"
#: Which weights a network of integers may have: such as no processor's sums overflow with, or all.
SAFE, FULL = "safe", "full"
#: Levels besides silence of a neuron whose spikes are 8 bits, of both signs together.
MOST_INT8 = 255

#: The groups of options, in the order of the help.
GROUPS = ("Common", "Neurons", "Corrections", "Time", "Target", "Output")
COMMON, NEURONS, CORRECTIONS, TIME, TARGET, OUTPUT = GROUPS


@dataclass(frozen=True)
class Numbers:
    """The finite numbers that an option may be.

    Attributes:
        kind: whole numbers, or all.
        least: the least of them; below all of them if ``above``.
        most: the largest.
        above: ``least`` is not one of them.
    """

    kind: type[int] | type[float]
    least: float
    most: float = math.inf
    above: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether it is one of them."""
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)):
            return False
        enough = value > self.least if self.above else value >= self.least
        return enough and value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        """One of them, in words."""
        what = "a whole number" if self.kind is int else "a finite number"
        if self.most == math.inf:
            return f"{what} {'above' if self.above else 'of at least'} {self.least:.0f}"
        bounds = "above {:.0f} and at most {:.0f}" if self.above else "from {:.0f} to {:.0f}"
        return f"{what} {bounds.format(self.least, self.most)}"


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name and type.

    Attributes:
        group: one of :data:`GROUPS`.
        meaning: what it does.
        default: its value where none is given; None if that depends on others, or is none.
        fallback: what None becomes where the option has an effect and no other rule holds.
        shown: the default in words, where it depends on others.
        choices: the names that it may be.
        numbers: the numbers that it may be.
        symbol: what stands for its value in the help.
        brief: its meaning in the help, where :attr:`meaning` is longer than a line or two.
        several: it is a tuple of texts, and given several times on the command line.
        text: it is a text.
    """

    group: str
    meaning: str
    default: Any = None
    fallback: Any = None
    shown: str = ""
    choices: tuple[str, ...] = ()
    numbers: Numbers | None = None
    symbol: str = ""
    brief: str = ""
    several: bool = False
    text: bool = False

    @property
    def help(self) -> str:
        """What the command line says of it: meaning, choices and default, in a line or two."""
        text = (self.brief or self.meaning).rstrip(".")
        if self.choices:
            text += f": {self.wanted}"
        value = self.fallback if self.default is None else self.default
        if self.is_switch or self.several:
            return text
        if value is None:
            return text + (f" [{self.shown}]" if self.shown else "")
        return f"{text} [{value}{', or by target' if self.shown else ''}]"

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.fallback if self.default is None else self.default, bool)

    @property
    def default_text(self) -> str:
        """The default as text; empty where there is none."""
        value = self.fallback if self.default is None else self.default
        if self.is_switch and not self.shown:
            return "on" if value else "off"
        return self.shown or ("" if value in (None, ()) else str(value))

    @property
    def wanted(self) -> str:
        """What it may be."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.numbers is not None:
            return str(self.numbers)
        if self.several:
            return "a tuple of texts"
        if self.text:
            return "a text"
        return "True or False" if self.is_switch else "a pathlib.Path"

    def takes(self, value: object) -> bool:
        """Whether it may have this value."""
        if value is None:
            return self.default is None
        if self.choices:
            return value in self.choices
        if self.numbers is not None:
            return value in self.numbers
        if self.several:
            return isinstance(value, tuple) and all(isinstance(v, str) and v for v in value)
        if self.text:
            return isinstance(value, str) and bool(value)
        return isinstance(value, bool if self.is_switch else Path)


def _option(group: str, meaning: str, default: Any = None, **known: Any) -> Any:
    """The field of an option; arguments as of :class:`Option`."""
    option = Option(group, meaning, default, **known)
    return field(default=default, metadata={"option": option})


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What the user may choose; ``snn-compile --help`` says what each option means.

    The default of some is None, as it depends on others. Their types are those that they have once
    ``resolve`` has given them their values; None then says that an option has no effect.
    """

    levels: int = _option(
        COMMON,
        "Levels N of each neuron and polarity, in each timestep; a neuron for both signs has 2 N, "
        "divided as the data ask.",
        fallback=32,
        shown="32; over several timesteps 1; standard, int8 255; qonnx 15; NIR 8",
        numbers=Numbers(int, 1, MOST_LEVELS),
        symbol="N",
        brief="Levels of each neuron and sign, in each timestep",
    )
    seed: int = _option(
        COMMON,
        "Seed of the synthetic inputs, and of the search of a scale.",
        fallback=0,
        numbers=Numbers(int, 0, 2**32 - 1),
        symbol="SEED",
        brief="Seed of synthetic inputs, and of --search-scale",
    )
    neuron: str = _option(
        NEURONS,
        "scale: ScaleFire, levels that grow apart by octaves; staircase: StaircaseFire, levels "
        "where the values are; multi-threshold: MultiThresholdFire, multiples of one threshold, "
        "over several timesteps IntegrateFire; signed: the latter, taking spikes back; auto: what "
        "the data, the levels and the timesteps ask for. Curves (GELU, sigmoid) become "
        "StaircaseFire, or with scale stay in float and are encoded.",
        fallback=AUTO,
        shown="auto; for standard scale; for int8, qonnx and NIR multi-threshold",
        choices=(AUTO, SCALE, STAIRCASE, MULTI_THRESHOLD, SIGNED),
        brief="Kind",
        symbol="KIND",
    )
    calibrator: str = _option(
        NEURONS,
        "How levels are found: where values are dense, by least squared error, most entropy, a "
        "percentile or the largest value as the ceiling, or, auto, chosen for each neuron.",
        AUTO,
        choices=(AUTO, DENSITY, "mse", "entropy", PERCENTILE, "max"),
        brief="How levels are found",
        symbol="NAME",
    )
    percentile: float = _option(
        NEURONS,
        "Percentile of that calibrator.",
        fallback=99.9,
        numbers=Numbers(float, 0, 100, above=True),
        symbol="P",
    )
    granularity: str = _option(
        NEURONS,
        "One threshold or scale per tensor, or per channel.",
        fallback=CHANNEL,
        shown="channel; for int8 tensor",
        choices=(TENSOR, CHANNEL),
        brief="One threshold or scale per",
        symbol="NAME",
    )
    encode: str = _option(
        NEURONS,
        "Encode every analog value that a linear operator reads, or only replace activations.",
        fallback=ALL,
        shown="all; for NIR activations",
        choices=(ALL, ACTIVATIONS),
        brief="Spikes",
        symbol="NAME",
    )
    exclude: tuple[str, ...] = _option(
        NEURONS,
        "Keep the activations of this name in float, or of all names that match it (* ? [ ]); also "
        "an encoder. Can be given several times.",
        (),
        symbol="PATTERN",
        several=True,
        brief="Keep activations of such names in float; repeatable",
    )
    encode_input: bool = _option(NEURONS, "Encode the network's own input too.", False)
    levels_budget: float | None = _option(
        NEURONS,
        "Give each neuron levels of its own, from half of --levels up, at this share of the "
        "synaptic operations that --levels for each would cost; 1 only moves them, 0 keeps N for "
        "each.",
        fallback=1.0,
        shown="1 for auto neurons of onnxruntime",
        numbers=Numbers(float, 0),
        symbol="SHARE",
        brief="Levels of its own for each neuron, at this share of the cost; 0: the same for all",
    )
    scale: float = _option(
        NEURONS,
        "Multiply the steps of all neurons by this lambda, from a sweep of snn-eval for example.",
        1.0,
        numbers=Numbers(float, 0, above=True),
        symbol="LAMBDA",
        brief="Multiply the steps of all neurons",
    )
    search_scale: bool = _option(
        NEURONS,
        "Search one scale for the steps of all neurons (needs the extra 'search').",
        False,
        brief="Search a scale for all steps (extra 'search')",
    )
    trials: int = _option(
        NEURONS,
        "Trials of the search.",
        fallback=20,
        numbers=Numbers(int, 1),
        symbol="K",
        brief="Trials of the search",
    )
    spike_weight: float = _option(
        NEURONS,
        "What spikes count against error in the search.",
        fallback=0.5,
        numbers=Numbers(float, 0),
        symbol="W",
        brief="Weight of spikes against error in the search",
    )
    sequential: bool = _option(
        CORRECTIONS,
        "Fit neurons to what spiking predecessors give them too, not to the ANN alone.",
        True,
        brief="Fit neurons to spiking predecessors too",
    )
    bias_correction: bool = _option(
        CORRECTIONS,
        "Correct the mean error of every linear operator.",
        True,
        brief="Correct mean errors of linear operators",
    )
    compensation: bool = _option(
        CORRECTIONS,
        "Compensate in the weights of every linear operator.",
        True,
        brief="Compensate in weights of linear operators",
    )
    shortcuts: str = _option(
        CORRECTIONS,
        "What the sums of residual blocks read past the linear operators: membrane potentials, or "
        "what the neurons fire.",
        fallback=MEMBRANE,
        shown="membrane; for NIR, and int8 of 255 levels, spikes",
        choices=(MEMBRANE, SPIKES),
        brief="What residual sums read",
        symbol="NAME",
    )
    timesteps: int = _option(
        TIME,
        "T: above 1, integrate-and-fire neurons over so many steps.",
        1,
        numbers=Numbers(int, 1, MOST_TIMESTEPS),
        symbol="T",
        brief="Above 1: integrate-and-fire neurons over T steps",
    )
    firing: str = _option(
        TIME,
        "When these neurons fire: as their input comes in, or once all of it is there.",
        fallback=IMMEDIATE,
        choices=(IMMEDIATE, DELAYED),
        brief="When these neurons fire",
        symbol="NAME",
    )
    time_axis: bool = _option(
        TIME,
        "Give inputs and outputs the timesteps as their first axis.",
        False,
        brief="Inputs and outputs have the timesteps as first axis",
    )
    target: str = _option(
        TARGET,
        "ONNX with neurons as operators of their own; of standard operators alone, for any "
        "runtime; with spikes and weights as integers of 8 bits, for fast kernels; QONNX of few "
        "bits, for FPGAs; or a NIR graph (needs the extra 'nir').",
        ONNXRUNTIME,
        choices=(ONNXRUNTIME, STANDARD, INT8, QONNX, NIR),
        brief="What is written, docs/runtimes.md",
        symbol="NAME",
    )
    opset: int | None = _option(
        TARGET,
        "Target standard: its opset.",
        shown="the lowest",
        numbers=Numbers(int, OLDEST_OPSET),
        symbol="K",
        brief="Opset, of target standard",
    )
    batch: int | None = _option(
        TARGET,
        "Fix the batch axis of a file of target standard.",
        numbers=Numbers(int, 1, MOST_BATCH),
        symbol="B",
        brief="Fix the batch axis, of target standard",
    )
    power_of_two: bool = _option(
        TARGET,
        "Target standard: steps that are powers of two and weights on a grid, so that every "
        "runtime gets the same sums.",
        fallback=True,
        shown="on for standard",
        brief="Same sums in every runtime, of target standard",
    )
    int8_weights: str = _option(
        TARGET,
        "Weights of int8: such that sums fit into 16 bits, for x86 without VNNI, or all.",
        fallback=SAFE,
        choices=(SAFE, FULL),
        brief="Weights, of target int8",
        symbol="NAME",
    )
    qonnx_form: str = _option(
        TARGET,
        "Neurons of qonnx: thresholds, or Quant where they have one sign.",
        fallback=THRESHOLDS,
        choices=(THRESHOLDS, QUANT),
        brief="Neurons, of target qonnx",
        symbol="NAME",
    )
    weight_bits: int = _option(
        TARGET,
        "Bits of the weights of qonnx.",
        fallback=8,
        numbers=Numbers(int, 2, 8),
        symbol="BITS",
        brief="Bits of weights, of target qonnx",
    )
    binary_spikes: str | None = _option(
        TARGET,
        "Send spikes of several levels as planes of 0 and 1, one per level or one per bit.",
        choices=(UNARY, BITS),
        brief="Spikes as planes of 0 and 1, per level or bit",
        symbol="NAME",
    )
    strict: bool = _option(
        OUTPUT,
        "Fail (exit code 3) if an activation would be kept.",
        False,
        brief="Fail (exit code 3) if an activation would be kept",
    )
    min_agreement: float | None = _option(
        OUTPUT,
        "Fail (exit code 5) unless ANN and SNN give the same argmax on this share of the samples.",
        numbers=Numbers(float, 0, 1),
        symbol="SHARE",
        brief="Fail (exit code 5) unless ANN and SNN agree (argmax) on this share of the samples",
    )
    layer_errors: bool = _option(
        OUTPUT, "Measure the error of each neuron alone, and of all up to it.", False
    )
    threads: int | None = _option(
        OUTPUT,
        "Threads that compute.",
        shown="one per processor",
        numbers=Numbers(int, 1, MOST_THREADS),
        symbol="K",
    )
    memory: float = _option(
        OUTPUT,
        "Share of the free memory that intermediate tensors may fill; others wait on disk.",
        0.25,
        numbers=Numbers(float, 0, 1),
        symbol="SHARE",
    )
    workers: int | None = _option(
        OUTPUT,
        "Calibrate in so many processes, each with a part of the samples and, without --threads, "
        "one thread (needs the extra 'distributed', docs/distributed.md).",
        numbers=Numbers(int, 1, MOST_WORKERS),
        symbol="K",
        brief="Calibrate in so many processes (extra 'distributed')",
    )
    scheduler: str | None = _option(
        OUTPUT,
        "Calibrate on the workers of a running cluster of Dask, which see the same files.",
        text=True,
        symbol="ADDRESS",
        brief="Calibrate on a cluster of Dask",
    )
    dump_dir: Path | None = _option(  # noqa: RUF009 (a field, as all others)
        OUTPUT,
        "Write the model after each step into here.",
        symbol="DIR",
        brief="Write the model after each step into here",
    )

    # What follows is of resolved options.

    @property
    def total_levels(self) -> int:
        """Levels over all timesteps."""
        return self.levels * self.timesteps

    @property
    def stepwise(self) -> bool:
        """Whether neurons see their predecessors' spikes one timestep after the other."""
        return self.firing == IMMEDIATE

    @property
    def signed(self) -> bool:
        """Whether neurons take spikes back: those of every activation have both polarities."""
        return self.neuron == SIGNED

    @property
    def kind(self) -> str:
        """What kind linear activations become: auto, scale, staircase or multi-threshold."""
        return self.neuron if self.neuron in (AUTO, SCALE, STAIRCASE) else MULTI_THRESHOLD

    @property
    def integers(self) -> bool:
        """Whether spikes and weights are integers of at most 8 bits."""
        return self.target in (INT8, QONNX)

    @property
    def wide(self) -> bool:
        """Whether levels can be relatively close to values of many scales."""
        dense = self.kind != MULTI_THRESHOLD and self.calibrator in (AUTO, DENSITY)
        return dense and FEWEST_WIDE <= self.levels <= MOST_PLACED and not self.levels_budget

    @property
    def encodes_whatever_it_costs(self) -> bool:
        """Whether the user, and not the target, wants the network's own input encoded."""
        return self.encode_input and not self.integers and not self.power_of_two

    @property
    def equal_steps(self) -> bool:
        """Whether neurons whose spikes meet in a sum have one step."""
        return self.target == QONNX

    @property
    def most_of_bits(self) -> int | None:
        """The largest integer of a weight of ``weight_bits``; None where these have no effect."""
        return None if self.weight_bits is None else (1 << (self.weight_bits - 1)) - 1

    @property
    def corrects_layers(self) -> bool:
        """Whether linear layers are corrected."""
        return self.bias_correction or self.compensation

    @property
    def corrects(self) -> bool:
        """Whether anything is done beyond fitting neurons to the ANN's values."""
        return self.sequential or self.corrects_layers

    def settings(self) -> dict[str, Any]:
        """All options by name, as JSON has them."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _as_json(value) for name, value in values.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def option_of(declared: Field[Any]) -> Option:
    """What is known of a field of :class:`CompileOptions`."""
    option = declared.metadata["option"]
    assert isinstance(option, Option)
    return option


#: All options by the names of their fields.
OPTIONS = {declared.name: option_of(declared) for declared in fields(CompileOptions)}


def with_overrides(options: CompileOptions, overrides: Mapping[str, Any]) -> CompileOptions:
    """The options with some of them changed, by the names of their fields.

    Raises:
        UsageError: no option is called so.
    """
    for name in overrides:
        if name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"; is it '{close[0]}'?" if close else ""
            raise UsageError(f"no option is called '{name}'{hint}")
    return replace(options, **overrides)


def flag(name: str) -> str:
    """An option as it is written on the command line, by the name of its field."""
    return "--" + name.replace("_", "-")


#: The options that correct what neurons do to a network, by their names.
CORRECTION_OPTIONS = tuple(name for name, one in OPTIONS.items() if one.group == CORRECTIONS)


def check_values(options: CompileOptions) -> None:
    """Refuse values that no option of that name has.

    Raises:
        UsageError: names the option and what it may be.
    """
    for name, option in OPTIONS.items():
        value = getattr(options, name)
        if not option.takes(value):
            raise UsageError(f"{flag(name)} {value!r} cannot be used; give {option.wanted}")


def filled(options: CompileOptions, **values: Any) -> CompileOptions:
    """The options, those of these that are None with these values."""
    missing = {name: value for name, value in values.items() if getattr(options, name) is None}
    return replace(options, **missing)
