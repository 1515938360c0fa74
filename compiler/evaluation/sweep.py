"""Sweeps: compile a network with one setting after another, and measure each.

1. A specification is an option and its values: ``levels=4,8,16``, ``scale=0.5,1,2`` (the lambda
   that multiplies the steps of all neurons, ``search_scale.py`` rule 2; 1 is the calibrated
   network), ``timesteps``, ``neuron``, ``target`` or ``calibrator``. Each value is given once; a
   sweep over several options is of all combinations.
2. A point is called after what varies: options with one value only are not in its label.
3. All other options are as given. Where they do not go with a point, one of those that serve some
   targets, neurons or calibrators only (:data:`DEPENDENT`), or else all of these, are left to their
   defaults there.
4. A point whose options do not go together, or that the compiler refuses, is kept with the reason
   why, and the others go on: a sweep takes long, and of all combinations some never go together.
   Where no point is left the first reason is raised, as far as it is about options before any work.
   Samples that are refused end the sweep.
5. The model is loaded and prepared once, but where the front end depends on what is swept, as that
   of int8 does on the levels. Each point is calibrated and lowered from there, which gives the same
   bytes as ``compile_model``, and handed to a function that measures it. Only one compiled network
   is held at a time.
6. Accuracy and energy of a point are those of :mod:`..report.sweep_points`: networks of integers
   have the accountings with weights of 8 bits alone.
7. The Pareto front of an accounting: those points for which no other one of them, with weights of
   the same precision, has at least the accuracy and at most the energy, and is better in one of
   the two. Points that are equal in both are on it together. A point whose accuracy or energy is
   not known or NaN is not on it, and keeps none off it. Baselines are drawn beside the front and
   have no part in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ...passes.graph.network import Network
from ..errors import DataError, SnnCompileError, UsageError
from ..front_end import Prepared, journey, prepare
from ..options import OPTIONS, CompileOptions
from ..pipeline import compile_prepared, refusals_explained
from ..progress import Progress
from ..report.results import OutputResult, SweepPoint
from ..report.sweep_points import ACCOUNTINGS, accuracy_of, energy_of
from ..samples.source import Data, Source
from ..targets import resolve

#: What may be swept, the slowest first: what the front end depends on.
SWEPT = ("target", "timesteps", "neuron", "calibrator", "levels", "scale")
#: Options that have an effect with some values of the swept ones only.
DEPENDENT = (
    *("percentile", "firing", "time_axis", "binary_spikes", "levels_budget", "search_scale"),
    *("trials", "spike_weight", "seed", "opset", "batch", "power_of_two", "int8_weights"),
    *("qonnx_form", "weight_bits", "granularity", "encode", "encode_input", "shortcuts"),
)
_FORM = f"levels=4,8,16 for example; {', '.join(SWEPT[:-1])} or {SWEPT[-1]}"

#: Of a compiled network: its outputs, and pJ per sample by accounting.
Measured = tuple[list[OutputResult], dict[str, float]]
#: Measures one.
Measure = Callable[[Network], Measured]


@dataclass(frozen=True)
class Setting:
    """One point to compile.

    Attributes:
        values: of the options that are swept, by name.
        label: what varies, as it was specified: ``levels=8 scale=0.5``.
    """

    values: Mapping[str, Any]
    label: str = field(default="", compare=False)

    def applied(self, options: CompileOptions, synthetic: bool = False) -> CompileOptions:
        """The options with this setting, resolved: rule 3.

        Raises:
            UsageError: they do not go together.
        """
        changed = replace(options, **self.values)
        own = [
            name
            for name in DEPENDENT
            if name not in self.values and getattr(options, name) != OPTIONS[name].default
        ]
        problem: UsageError | None = None
        for left_out in ([], *([name] for name in own), own):
            free = {name: OPTIONS[name].default for name in left_out}
            try:
                return resolve(replace(changed, **free), synthetic)
            except UsageError as error:
                problem = problem or error
        assert problem is not None
        raise problem


#: A point to be tried, and the options it is compiled with.
Job = tuple[Setting, CompileOptions]
#: What each of the jobs gives, in order: what was measured, or why it is refused.
Trials = Callable[[Sequence[Job]], Generator[Measured | SnnCompileError, None, None]]


def parse_sweep(specifications: Sequence[str]) -> list[Setting]:
    """The points of ``levels=4,8`` and ``scale=0.5,1``: rules 1 and 2.

    Raises:
        UsageError: a specification is not of this form.
    """
    found: dict[str, list[Any]] = {}
    for text in specifications:
        name, equals, listed = text.partition("=")
        if not equals or name not in SWEPT:
            raise UsageError(f"sweep {text!r}: expected {_FORM}")
        if name in found:
            raise UsageError(f"sweep {text!r}: {name} is swept twice; give all values in one list")
        found[name] = [_value(name, item.strip(), text) for item in listed.split(",")]
        if len(set(found[name])) < len(found[name]):
            raise UsageError(f"sweep {text!r}: a value is there twice")
    if not found:
        raise UsageError(f"a sweep needs {_FORM}")
    names = [name for name in SWEPT if name in found]
    varying = [name for name in names if len(found[name]) > 1] or names
    settings = []
    for values in itertools.product(*(found[name] for name in names)):
        one = dict(zip(names, values, strict=True))
        settings.append(Setting(one, " ".join(f"{n}={_shown(one[n])}" for n in varying)))
    return settings


def sweep(
    options: CompileOptions, settings: Sequence[Setting], trials: Trials, synthetic: bool = False
) -> list[SweepPoint]:
    """Compile and measure every setting.

    Args:
        options: of every point, but for what is swept; not resolved.
        settings: from :func:`parse_sweep`.
        trials: compiles and measures; :func:`tried_here`, or workers.
        synthetic: whether calibration samples are made up.

    Returns:
        The points in order, those of the Pareto fronts marked, those that are refused with the
        reason.

    Raises:
        UsageError: the options of no point go together; nothing was compiled.
        DataError: the samples are refused.
        SnnCompileError: no point could be compiled and measured; the message names the first.
    """
    problems: dict[int, SnnCompileError] = {}
    chosen: list[CompileOptions | None] = []
    for number, setting in enumerate(settings):
        try:
            chosen.append(setting.applied(options, synthetic))
        except UsageError as error:
            problems[number] = error
            chosen.append(None)
    _require_one(settings, problems)
    points = []
    jobs = list(zip(settings, chosen, strict=True))
    compiled = [(setting, one) for setting, one in jobs if one is not None]
    with closing(trials(compiled)) as tried:
        for number, (setting, one) in enumerate(jobs):
            point = SweepPoint(setting.label, dict(setting.values), [], {})
            if one is not None:
                point = replace(point, integers=one.integers)
                outcome = next(tried)
                if isinstance(outcome, SnnCompileError):
                    problems[number] = outcome
                else:
                    point.outputs, energy = outcome
                    point.energy = _own(energy, one.integers)
            if number in problems:
                point = replace(point, refused=str(problems[number]))
            points.append(point)
    _require_one(settings, problems)
    return mark_pareto(points)


def tried_here(
    model: str | Path | ModelProto,
    calibration: Data | Source | None,
    measure: Measure,
    progress: Progress,
) -> Trials:
    """Tries settings in this process.

    Args:
        model: the ANN, as for ``compile_model``.
        calibration: its samples, likewise; data that are read once only as their source.
        measure: what is done with a compiled network.
        progress: told about points done, and about the steps of each.
    """

    def tried(jobs: Sequence[Job]) -> Generator[Measured | SnnCompileError, None, None]:
        with closing(FrontEnd(model, calibration, progress)) as front_end:
            for job in progress.track(jobs, len(jobs), "sweep"):
                yield front_end.tried(job, measure)

    return tried


class FrontEnd:
    """Prepares the model, anew where a point needs that, and tries settings: rule 5.

    Args:
        model: the ANN, as for ``compile_model``.
        calibration: its samples, likewise.
        progress: told about the steps of each point.
    """

    def __init__(
        self,
        model: str | Path | ModelProto,
        calibration: Data | Source | None,
        progress: Progress,
    ) -> None:
        self._source, self._held, self._progress = (model, calibration), ExitStack(), progress
        self._known: object = None
        self._prepared: Prepared | None = None

    def close(self) -> None:
        """Give back what was prepared."""
        self._held.close()

    def tried(self, job: Job, measure: Measure) -> Measured | SnnCompileError:
        """What was measured of a point, or why it is refused.

        Raises:
            DataError: the samples are refused: rule 4.
        """
        setting, options = job
        try:
            with refusals_explained(self._source[1] is None, options):
                compiled = compile_prepared(self._prepare(options), options, self._progress)
                return measure(compiled.network)
        except DataError as error:
            raise DataError(f"{setting.label}: {error}") from error
        except SnnCompileError as error:
            return error

    def _prepare(self, options: CompileOptions) -> Prepared:
        wanted = journey(options), options.target, options.timesteps, options.neuron
        if self._prepared is None or wanted != self._known:
            self._held.close()
            self._prepared = None
            self._prepared = self._held.enter_context(
                prepare(*self._source, options, self._progress)
            )
            self._known = wanted
        return self._prepared


def mark_pareto(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The points, with the accountings in which they are on the Pareto front: rule 7."""
    marked = [replace(point, pareto=[]) for point in points]
    for accounting in ACCOUNTINGS:
        for integers in (False, True):
            rivals = [point for point in marked if point.integers == integers]
            places = [_place(point, accounting) for point in rivals]
            known = [place for place in places if place is not None]
            for point, place in zip(rivals, places, strict=True):
                if place is not None and not any(_beats(other, place) for other in known):
                    point.pareto.append(accounting)
    return marked


def _require_one(settings: Sequence[Setting], problems: Mapping[int, SnnCompileError]) -> None:
    """Raise the first of the problems where every point has one."""
    if len(problems) == len(settings) and problems:
        number, error = next(iter(sorted(problems.items())))
        raise type(error)(f"{settings[number].label}: {error}") from error


def _own(energy: Mapping[str, float], integers: bool) -> dict[str, float]:
    """Rule 6."""
    return {name: pj for name, pj in energy.items() if not integers or f"{name}_int8" not in energy}


def _place(point: SweepPoint, accounting: str) -> tuple[float, float] | None:
    """Accuracy and energy, where both are numbers."""
    accuracy, energy = accuracy_of(point), energy_of(point, accounting)
    if accuracy is None or energy is None or math.isnan(accuracy.value) or math.isnan(energy):
        return None
    return accuracy.value, energy


def _beats(other: tuple[float, float], mine: tuple[float, float]) -> bool:
    return other != mine and other[0] >= mine[0] and other[1] <= mine[1]


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _value(name: str, item: str, text: str) -> Any:
    option = OPTIONS[name]
    if option.choices:
        value: Any = item
    else:
        assert option.numbers is not None
        try:
            value = option.numbers.kind(item)
        except ValueError:
            value = math.nan
    if not option.takes(value):
        what = "one of " * bool(option.choices) + option.wanted
        raise UsageError(f"sweep {text!r}: {item!r} is not {what}")
    return value
