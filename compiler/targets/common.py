"""What options of all targets have in common: their defaults, and which do not go together."""

from __future__ import annotations

from dataclasses import replace

from ...passes.lowering.binary_spikes import MAX_UNARY
from ..errors import UsageError
from ..options import (
    ALL,
    AUTO,
    DENSITY,
    INT8,
    MOST_PLACED,
    MULTI_THRESHOLD,
    ONNXRUNTIME,
    OPTIONS,
    PERCENTILE,
    QONNX,
    SCALE,
    SIGNED,
    STAIRCASE,
    STANDARD,
    UNARY,
    CompileOptions,
    filled,
    flag,
)


def resolve_common(options: CompileOptions, synthetic: bool) -> CompileOptions:
    """The options with all defaults in place; resolved ones stay as they are.

    Args:
        options: with the defaults of their target.
        synthetic: samples are made up, as none are given.

    Raises:
        UsageError: options do not go together, or one has no effect.
    """
    several = options.timesteps > 1
    if several:
        _check_time(options)
    options = filled(options, levels=1 if several else OPTIONS["levels"].fallback)
    common = ("neuron", "granularity", "shortcuts", "encode")
    options = filled(options, **{name: OPTIONS[name].fallback for name in common})
    options = _used(options, "int8_weights", options.target == INT8, "with --target int8")
    for name in ("qonnx_form", "weight_bits"):
        options = _used(options, name, options.target == QONNX, "with --target qonnx")
    _check_standard(options)
    percentile, search = options.calibrator == PERCENTILE, options.search_scale
    options = _used(options, "firing", several, "over several --timesteps")
    options = _used(options, "percentile", percentile, "with --calibrator percentile")
    options = _used(options, "trials", search, "with --search-scale")
    options = _used(options, "spike_weight", search, "with --search-scale")
    drawn = synthetic or search
    options = _used(options, "seed", drawn, "without --calibration, or with --search-scale")
    _check_workers(options, synthetic)
    if options.encode_input and options.encode != ALL:
        raise UsageError(
            "--encode-input has an effect only with --encode all; give both or neither"
        )
    if options.time_axis and not options.stepwise:
        raise UsageError(
            "--time-axis needs neurons that fire immediately over several timesteps; give "
            "--timesteps, and leave out --firing delayed"
        )
    if search and options.scale != 1:
        raise UsageError("a scale is searched and given; leave out --scale or --search-scale")
    options = _resolve_neuron(options)
    # Of made-up samples it is not known where levels matter.
    planned = options.target == ONNXRUNTIME and options.neuron == AUTO and not synthetic
    return filled(options, levels_budget=OPTIONS["levels_budget"].fallback) if planned else options


def _used(options: CompileOptions, name: str, in_effect: bool, where: str) -> CompileOptions:
    """The options, this one with its default where it has an effect, refused elsewhere."""
    if in_effect:
        return filled(options, **{name: OPTIONS[name].fallback})
    if getattr(options, name) is not None:
        raise UsageError(f"{flag(name)} has an effect only {where}; leave it out")
    return options


def _check_workers(options: CompileOptions, synthetic: bool) -> None:
    """Refuse workers where none calibrate."""
    given = [name for name in ("workers", "scheduler") if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError("--scheduler and --workers exclude each other; leave out one of them")
    if given and synthetic:
        raise UsageError(f"{flag(given[0])} has an effect only with --calibration; leave it out")
    if given and not options.corrects:
        raise UsageError(
            f"{flag(given[0])} has no effect where nothing is corrected, as the samples are run "
            "once; leave it out, or one of the --no-... options"
        )


def _check_standard(options: CompileOptions) -> None:
    """Refuse what has an effect on files of standard operators only."""
    for name in ("opset", "batch", "power_of_two"):
        if options.target != STANDARD and getattr(options, name):
            raise UsageError(
                f"{flag(name)} has an effect only with --target standard; leave it out"
            )
    if options.power_of_two and (options.search_scale or options.scale != 1):
        raise UsageError(
            "steps times a scale are no powers of two; leave out --power-of-two, or "
            "--search-scale and --scale"
        )


def _check_time(options: CompileOptions) -> None:
    """Refuse what is done for networks of one timestep only."""
    if options.neuron in (SCALE, STAIRCASE):
        raise UsageError(
            f"{options.neuron} neurons fire in one timestep; leave out --timesteps, or use "
            "multi-threshold neurons, which become integrate-and-fire neurons"
        )
    if options.search_scale or options.levels_budget:
        raise UsageError(
            "levels and scales are searched for networks of one timestep only; leave out "
            "--timesteps, or --search-scale and --levels-budget"
        )


def _resolve_neuron(options: CompileOptions) -> CompileOptions:
    """The kind of neuron, and what it asks of levels and calibrator."""
    levels, asked = options.levels, options.neuron
    if asked == SIGNED and not options.stepwise:
        raise UsageError(
            "signed neurons take back spikes of earlier timesteps; give --timesteps, and leave out "
            "--firing delayed"
        )
    if asked in (SCALE, STAIRCASE) and levels > MOST_PLACED:
        raise UsageError(
            f"{levels} levels: {asked} neurons have at most {MOST_PLACED}; "
            "use fewer --levels, or multi-threshold neurons"
        )
    if options.binary_spikes == UNARY and levels > MAX_UNARY:
        raise UsageError(
            f"unary spikes of {levels} levels take {levels} times the memory; choose "
            f"--binary-spikes bits, or at most {MAX_UNARY} --levels"
        )
    if asked == AUTO:  # unary spikes are as many as the highest level: uniform ones are the fewest
        few = levels <= MOST_PLACED and options.binary_spikes != UNARY
        one = AUTO if few else MULTI_THRESHOLD
        several = SIGNED if options.stepwise else MULTI_THRESHOLD
        options = replace(options, neuron=several if options.timesteps > 1 else one)
    if options.calibrator == DENSITY and options.kind == MULTI_THRESHOLD:
        needed = asked == AUTO and options.timesteps == 1
        why = f", which {levels} levels need," if needed else ""
        raise UsageError(
            f"the calibrator density places levels freely, those of multi-threshold neurons{why} "
            "are multiples of one threshold; use mse, or scale or staircase neurons"
        )
    return options
