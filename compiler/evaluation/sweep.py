"""Sweeps: compile a network with one setting after another, and measure each.

1. A specification is ``levels=4,8,16`` (numbers of levels N) or ``scale=0.5,1,2`` (the lambda that
   multiplies the steps of all neurons, ``search_scale.py`` rule 2; 1 is the calibrated network).
   Values are positive, each given once; a sweep over both is their product, levels first.
2. The model is loaded and prepared once, but where the front end depends on what is swept, as that
   of int8 does on the levels. Each point is calibrated and lowered from there, with all
   other options as given, which gives the same bytes as ``compile_model``, and handed to a function
   that measures it. Only one compiled network is held at a time. What was checked before any work
   is done: the specifications, and the options of every point.
3. Accuracy and energy of a point are those of :mod:`..report.sweep_points`.
4. The Pareto front of some points: those for which no other one of them has at least the accuracy
   and at most the energy, and is better in one of the two. Points that are equal in both are on it
   together. A point whose accuracy or energy is unknown or NaN is not on it, and keeps none off it.
   Baselines are drawn beside the front and have no part in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from ...passes.graph.network import Network
from ..errors import SnnCompileError, UsageError
from ..front_end import journey, prepare
from ..options import MOST_LEVELS, CompileOptions
from ..pipeline import compile_prepared, refusals_explained
from ..progress import Progress
from ..report.results import OutputResult, SweepPoint
from ..report.sweep_points import accuracy_of, energy_of
from ..samples.source import Data, Source
from ..targets import resolve

#: What may be swept.
LEVELS, SCALE = "levels", "scale"

#: Measures a compiled network: its outputs, and pJ per sample by accounting.
Measure = Callable[[Network], tuple[list[OutputResult], dict[str, float]]]


@dataclass(frozen=True)
class Setting:
    """One point to compile: None leaves what the options say."""

    levels: int | None = None
    scale: float | None = None

    @property
    def label(self) -> str:
        """As it was specified: ``levels=8 scale=0.5``."""
        known = ((LEVELS, self.levels), (SCALE, self.scale))
        return " ".join(f"{name}={value:g}" for name, value in known if value is not None)

    def applied(self, options: CompileOptions) -> CompileOptions:
        """The options with this setting."""
        if self.levels is not None:
            options = replace(options, levels=self.levels)
        return options if self.scale is None else replace(options, scale=self.scale)


def parse_sweep(specifications: Sequence[str]) -> list[Setting]:
    """The points of ``levels=4,8`` and ``scale=0.5,1``: rule 1.

    Raises:
        UsageError: a specification is not of this form.
    """
    values: dict[str, list[float]] = {}
    for text in specifications:
        name, equals, listed = text.partition("=")
        if not equals or name not in (LEVELS, SCALE):
            raise UsageError(f"sweep {text!r}: expected levels=4,8,16 or scale=0.5,1,2")
        if name in values:
            raise UsageError(f"sweep {text!r}: {name} is swept twice; give all values in one list")
        values[name] = [_number(name, item, text) for item in listed.split(",")]
        if len(set(values[name])) < len(values[name]):
            raise UsageError(f"sweep {text!r}: a value is there twice")
    if not values:
        raise UsageError("a sweep needs levels=4,8,16 or scale=0.5,1,2")
    levels = [int(value) for value in values[LEVELS]] if LEVELS in values else [None]
    scales = values.get(SCALE, [None])
    return [Setting(*pair) for pair in itertools.product(levels, scales)]


def sweep(
    model: str | Path | ModelProto,
    calibration: Data | Source | None,
    options: CompileOptions,
    settings: Sequence[Setting],
    measure: Measure,
    progress: Progress,
    accounting: str = "unary",
) -> list[SweepPoint]:
    """Compile and measure every setting.

    Args:
        model: the ANN, as for ``compile_model``.
        calibration: its samples, likewise; data that are read once only as their source.
        options: of every point, but for what is swept.
        settings: from :func:`parse_sweep`.
        measure: what is done with a compiled network.
        progress: told about points done, and about the steps of each.
        accounting: of the energy, for the Pareto front.

    Returns:
        The points in order, those of the Pareto front marked.

    Raises:
        UsageError: the options of a point do not go together; nothing was compiled.
        SnnCompileError: the model or the samples are refused, or a point could not be compiled or
            measured; then the message names it.
    """
    pairs = []
    for setting in settings:
        with _naming(setting):
            chosen = resolve(setting.applied(options), synthetic=calibration is None)
            pairs.append((setting, chosen))
    first, points = pairs[0][1], []
    known = None
    with refusals_explained(calibration is None, first), ExitStack() as held:
        for setting, chosen in progress.track(pairs, len(pairs), "sweep"):
            if journey(chosen) != known:
                held.close()
                known = journey(chosen)
                prepared = held.enter_context(prepare(model, calibration, chosen, progress))
            with _naming(setting):
                compiled = compile_prepared(prepared, chosen, progress)
                outputs, energy = measure(compiled.network)
            points.append(SweepPoint(setting.label, setting.levels, setting.scale, outputs, energy))
    return mark_pareto(points, accounting)


def mark_pareto(points: Sequence[SweepPoint], accounting: str) -> list[SweepPoint]:
    """The points, those of the Pareto front marked: rule 4."""
    places = [_place(point, accounting) for point in points]
    known = [place for place in places if place is not None]
    return [
        replace(point, pareto=place is not None and not any(_beats(o, place) for o in known))
        for point, place in zip(points, places, strict=True)
    ]


def _place(point: SweepPoint, accounting: str) -> tuple[float, float] | None:
    """Accuracy and energy, where both are numbers."""
    accuracy, energy = accuracy_of(point), energy_of(point, accounting)
    if accuracy is None or energy is None or math.isnan(accuracy.value) or math.isnan(energy):
        return None
    return accuracy.value, energy


def _beats(other: tuple[float, float], mine: tuple[float, float]) -> bool:
    return other != mine and other[0] >= mine[0] and other[1] <= mine[1]


def _number(name: str, item: str, text: str) -> float:
    try:
        value = float(item)
    except ValueError:
        value = math.nan
    whole = name == LEVELS
    if not 0 < value < math.inf or (whole and value != math.floor(value)):
        what = "whole number above 0" if whole else "finite number above 0"
        raise UsageError(f"sweep {text!r}: {item!r} is not a {what}")
    if whole and value > MOST_LEVELS:
        raise UsageError(f"sweep {text!r}: {item} levels, at most {MOST_LEVELS} are possible")
    return value


@contextmanager
def _naming(setting: Setting) -> Iterator[None]:
    """A refusal says which point it is of."""
    try:
        yield
    except SnnCompileError as error:
        raise type(error)(f"{setting.label}: {error}") from error
