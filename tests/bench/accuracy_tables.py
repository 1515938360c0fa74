"""The rows of the accuracy tables: which configurations each of them measures.

To add a row, add its options where the table is built: they are fields of CompileOptions by name.
The ablation has a row for every switch of the group of corrections without being told; another one
is added to ``_OTHER_SWITCHES``, anything else to ``_OTHER_OPTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from accuracy_configuration import Configuration
from shared_networks import DIGITS, EFFICIENTNET, KEYWORDS, MINILM, RESNET, Network
from snn_compile.compiler.calibration.fitting.uniform_calibrators import UNIFORM_CALIBRATORS
from snn_compile.compiler.options import (
    AUTO,
    CORRECTIONS,
    INT8,
    MEMBRANE,
    MULTI_THRESHOLD,
    OPTIONS,
    QONNX,
    SCALE,
    SPIKES,
    STAIRCASE,
    flag,
)

DEFAULT_LEVELS = OPTIONS["levels"].fallback

#: Options that are switches by what they mean, and their positions: off first.
_OTHER_SWITCHES: dict[str, tuple[Any, Any]] = {"shortcuts": (SPIKES, MEMBRANE)}

#: Other options that the ablation has a row for.
_OTHER_OPTIONS: dict[str, dict[str, Any]] = {"--levels-budget 1": {"levels_budget": 1.0}}

#: Calibration of the runtime's static quantisation; see ``compiler/evaluation/int8_baseline.py``.
METHODS = ("MinMax", "Entropy", "Percentile")

_QUICK_CALIBRATION, _QUICK_TEST, _QUICK_LEVELS = 8, 16, 8


@dataclass(frozen=True)
class Row:
    """One row: the cells that tell what it is, and a configuration for each seed."""

    labels: tuple[str, ...]
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True)
class Section:
    """Rows of the same columns.

    Attributes:
        figures: "classes", "embeddings", "boxes", "pixels", "calibrate" or "whole"; see
            ``accuracy_page.py``.
        labels: headings of the cells that tell what a row is.
        rows: the rows.
    """

    figures: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        networks: those that are there, in the order of the tables.
        seeds: of each row.
        quick: few samples and N = 8 only, to see that everything works.
    """

    networks: tuple[Network, ...]
    seeds: tuple[int, ...]
    quick: bool = False

    def among(self, *wanted: Network) -> list[Network]:
        """Those of the wanted networks that are there."""
        return [network for network in self.networks if network in wanted]

    def levels(self, *wanted: int) -> tuple[int, ...]:
        """Numbers of levels."""
        return (_QUICK_LEVELS,) if self.quick else wanted

    def counts(self, network: Network) -> tuple[int, int]:
        """Samples for calibration and for testing."""
        if self.quick:
            return _QUICK_CALIBRATION, _QUICK_TEST
        return network.calibration, network.test

    def measured(
        self,
        network: Network,
        labels: Iterable[object],
        options: dict[str, Any],
        what: str = "compile",
        calibration: int | None = None,
    ) -> Row:
        """A row, with as many calibration samples as the network has unless it is said."""
        usual, test = self.counts(network)
        samples = usual if calibration is None else calibration
        chosen = {name: value for name, value in options.items() if value != _default(name)}
        if "target" in options:  # which has defaults of its own
            chosen = options
        return Row(
            (network.title, *map(str, labels)),
            tuple(
                Configuration(what, network.name, seed, samples, test, chosen)
                for seed in self.seeds
            ),
        )


def main_table(plan: Plan) -> list[Section]:
    """Default options, N = 4 to 64."""
    return _by_kind(
        plan,
        ("network", "N"),
        lambda network: [
            plan.measured(network, [n], {"levels": n}) for n in plan.levels(4, 8, 16, 32, 64)
        ],
    )


def kinds_table(plan: Plan) -> list[Section]:
    """Each kind of neuron alone."""

    def rows(network: Network) -> list[Row]:
        if network not in (RESNET, KEYWORDS, MINILM):
            return []
        return [
            plan.measured(network, [n, kind], {"levels": n, "neuron": kind})
            for n in plan.levels(8, 16, 32)
            for kind in (SCALE, STAIRCASE, MULTI_THRESHOLD)
        ]

    return _by_kind(plan, ("network", "N", "neuron"), rows)


def int8_table(plan: Plan) -> list[Section]:
    """Spikes and weights as integers of 8 bits, beside the runtime's own quantisation."""

    def rows(network: Network) -> list[Row]:
        own = [
            plan.measured(network, ["snn-compile", n], {"target": INT8, "levels": n})
            for n in plan.levels(255, 32)
        ]
        options = {"method": METHODS[0], "operators": "all"}
        return [*own, plan.measured(network, ["onnxruntime", 255], options, "quantise")]

    return _by_kind(plan, ("network", "made by", "N"), rows)


def qonnx_table(plan: Plan) -> list[Section]:
    """Thresholds and weights of few bits: rounded in calibration, and to the nearest without it."""
    nearest = {"bias_correction": False, "compensation": False}

    def rows(network: Network) -> list[Row]:
        if network not in (RESNET, KEYWORDS):
            return []
        return [
            plan.measured(
                network, [15, bits, how], {"target": QONNX, "weight_bits": bits} | options
            )
            for bits in (8, 4, 3)
            for how, options in (("in calibration", {}), ("to the nearest", nearest))
        ]

    return _by_kind(plan, ("network", "N", "weight bits", "rounded"), rows)


def budget_table(plan: Plan) -> list[Section]:
    """As many spikes as N levels for each neuron, and levels where they matter."""
    slow = plan.levels(16, 32)
    return _by_kind(
        plan,
        ("network", "N"),
        lambda network: [
            plan.measured(network, [n], {"levels": n, "levels_budget": 1.0})
            for n in (slow if network == EFFICIENTNET else plan.levels(4, 8, 16, 32))
        ],
    )


def calibrators_table(plan: Plan) -> list[Section]:
    """Calibrators, per tensor and per channel, for all kinds of neurons."""
    choices = [
        (AUTO, "auto"),
        *((SCALE, calibrator) for calibrator in ("auto", "density", *UNIFORM_CALIBRATORS)),
        *((STAIRCASE, calibrator) for calibrator in ("auto", "density", *UNIFORM_CALIBRATORS)),
        *((MULTI_THRESHOLD, calibrator) for calibrator in ("auto", *UNIFORM_CALIBRATORS)),
    ]

    networks = (KEYWORDS,) if plan.quick else (RESNET, KEYWORDS)

    def rows(network: Network) -> list[Row]:
        if network not in networks:
            return []
        return [
            plan.measured(
                network,
                [n, neuron, calibrator, granularity],
                {
                    "levels": n,
                    "neuron": neuron,
                    "calibrator": calibrator,
                    "granularity": granularity,
                },
            )
            for n in plan.levels(8, 32)
            for neuron, calibrator in choices
            for granularity in ("channel", "tensor")
        ]

    return _by_kind(plan, ("network", "N", "neuron", "calibrator", "granularity"), rows)


def corrections_table(plan: Plan) -> list[Section]:
    """Each switch turned alone, and all of them off."""
    wanted = {RESNET: 8, KEYWORDS: 8, EFFICIENTNET: 16, MINILM: 16}
    changes: dict[str, dict[str, Any]] = {"defaults": {}}
    for name, (off, on) in _switches().items():
        value = on if _default(name) == off else off
        said = flag(f"no_{name}") if value is False else f"{flag(name)} {value}"
        changes[f"`{said}`"] = {name: value}
    changes |= {f"`{flag}`": options for flag, options in _OTHER_OPTIONS.items()}
    changes["all off"] = all_off()

    def rows(network: Network) -> list[Row]:
        if network not in wanted:
            return []
        (n,) = plan.levels(wanted[network])
        return [
            plan.measured(network, [n, name], {"levels": n} | options)
            for name, options in changes.items()
        ]

    return _by_kind(plan, ("network", "N", "options"), rows)


def all_off() -> dict[str, Any]:
    """Every correction off."""
    return {name: off for name, (off, _) in _switches().items()}


def _switches() -> dict[str, tuple[Any, Any]]:
    """Every switch and its two positions, off first."""
    group = [name for name, known in OPTIONS.items() if known.group == CORRECTIONS]
    flags = [name for name in group if OPTIONS[name].is_switch]
    return dict.fromkeys(flags, (False, True)) | _OTHER_SWITCHES


def baselines_table(plan: Plan) -> list[Section]:
    """Static quantisation of the runtime, and uniform levels as many as a neuron has."""

    def rows(network: Network) -> list[Row]:
        found = [
            plan.measured(
                network,
                [f"onnxruntime 8 bit, {method}, {operators} operators", 255],
                {"method": method, "operators": operators},
                "quantise",
            )
            for method in METHODS
            for operators in ("all", "linear")
        ]
        for n in plan.levels(8, 16, 32):
            for calibrator in ("max", "mse"):
                options = all_off() | {
                    "levels": n,
                    "neuron": MULTI_THRESHOLD,
                    "calibrator": calibrator,
                }
                found.append(plan.measured(network, [f"uniform, {calibrator}", n], options))
            found.append(plan.measured(network, ["snn-compile, defaults", n], {"levels": n}))
        return found

    return _by_kind(plan, ("network", "method", "levels"), rows)


def datafree_table(plan: Plan) -> list[Section]:
    """With calibration samples and with made-up ones."""

    def rows(network: Network) -> list[Row]:
        if network not in (RESNET, KEYWORDS, DIGITS, EFFICIENTNET):
            return []
        (n,) = plan.levels(DEFAULT_LEVELS)
        return [
            plan.measured(network, [n, "real samples"], {"levels": n}),
            plan.measured(network, [n, "none"], {"levels": n}, calibration=0),
        ]

    return _by_kind(plan, ("network", "N", "calibration"), rows)


def cost_table(plan: Plan) -> list[Section]:
    """Seconds and peak memory; the seeds are repetitions."""
    calibration = [
        plan.measured(network, [], all_off(), "calibrate", samples)
        for network in plan.among(RESNET)
        for samples in ((4, 8) if plan.quick else (32, 512))
    ]
    whole = [
        plan.measured(network, [], {}, "whole", samples)
        for network in plan.among(EFFICIENTNET, MINILM)
        for samples in ((8,) if plan.quick else (64,))
    ]
    sections = [
        Section("calibrate", ("network",), tuple(calibration)),
        Section("whole", ("network",), tuple(whole)),
    ]
    return [section for section in sections if section.rows]


def _default(option: str) -> Any:
    """The default of an option, so that rows that say it and rows that do not share results."""
    known = OPTIONS.get(option)
    if known is None:  # of a quantisation
        return None
    return known.fallback if known.default is None else known.default


def _by_kind(
    plan: Plan, labels: tuple[str, ...], rows: Callable[[Network], list[Row]]
) -> list[Section]:
    """What networks give decides the columns."""
    sections = []
    for figures in ("classes", "embeddings", "boxes", "pixels"):
        networks = [network for network in plan.networks if network.output == figures]
        found = tuple(row for network in networks for row in rows(network))
        if found:
            sections.append(Section(figures, labels, found))
    return sections


TABLES: dict[str, Callable[[Plan], list[Section]]] = {
    "main": main_table,
    "kinds": kinds_table,
    "int8": int8_table,
    "qonnx": qonnx_table,
    "budget": budget_table,
    "calibrators": calibrators_table,
    "corrections": corrections_table,
    "baselines": baselines_table,
    "datafree": datafree_table,
    "cost": cost_table,
}
