"""The rows of the accuracy tables: which configurations each of them measures.

To add a row, add its options where the table is built: they are fields of CompileOptions by name.
The ablation has a row for every switch of the group of corrections without being told; another one
is added to ``_OTHER_SWITCHES``, anything else to ``_OTHER_OPTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from accuracy_configuration import Configuration
from shared_networks import (
    DIGITS,
    EFFICIENTNET,
    HEADLINES,
    IMAGES,
    KEYWORDS,
    RESNET,
    Network,
)
from snn_compile.compiler.options import (
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
_OTHER_OPTIONS: dict[str, dict[str, Any]] = {"--levels-budget 0": {"levels_budget": 0.0}}

#: The sentence transformer once more, with other sentences.
_PAIRS = (HEADLINES, IMAGES)

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
        figures: what the network gives, ``Network.output``.
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

    def without(self, unwanted: tuple[Network, ...]) -> Plan:
        """The same for other networks only."""
        kept = tuple(network for network in self.networks if network not in unwanted)
        return replace(self, networks=kept)

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
    """Default options, N = 4 to 64; of sentence pairs 8 to 32."""
    return _by_kind(
        plan,
        ("network", "N"),
        lambda network: [
            plan.measured(network, [n], {"levels": n})
            for n in plan.levels(*((8, 16, 32) if network in _PAIRS else (4, 8, 16, 32, 64)))
        ],
    )


def kinds_table(plan: Plan) -> list[Section]:
    """Each kind of neuron alone."""

    def rows(network: Network) -> list[Row]:
        if network not in (RESNET, KEYWORDS):
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
            for n in plan.levels(4, 8, 16, 32, 64, 255)
        ]
        return [*own, plan.measured(network, ["onnxruntime", 255], {}, "quantise")]

    return _by_kind(plan.without(_PAIRS), ("network", "made by", "N"), rows)


def qonnx_table(plan: Plan) -> list[Section]:
    """Thresholds and weights of few bits."""
    return _by_kind(
        plan.without(_PAIRS),
        ("network", "N", "weight bits"),
        lambda network: [
            plan.measured(network, [15, bits], {"target": QONNX, "weight_bits": bits})
            for bits in (8, 4)
        ],
    )


def corrections_table(plan: Plan) -> list[Section]:
    """Each switch turned alone, and all of them off."""
    wanted = {RESNET: 8, KEYWORDS: 8}
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


def uniform_table(plan: Plan) -> list[Section]:
    """Levels of one distance in place of the neurons, nothing corrected."""

    def rows(network: Network) -> list[Row]:
        if network not in (RESNET, KEYWORDS):
            return []
        plain = all_off() | {"neuron": MULTI_THRESHOLD}
        return [
            plan.measured(network, [n, calibrator], {"levels": n, "calibrator": calibrator} | plain)
            for n in plan.levels(8, 16, 32)
            for calibrator in ("max", "mse")
        ]

    return _by_kind(plan, ("network", "N", "calibrator"), rows)


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
    for figures in ("classes", "embeddings", "pairs", "boxes", "pixels"):
        networks = [network for network in plan.networks if network.output == figures]
        found = tuple(row for network in networks for row in rows(network))
        if found:
            sections.append(Section(figures, labels, found))
    return sections


TABLES: dict[str, Callable[[Plan], list[Section]]] = {
    "main": main_table,
    "int8": int8_table,
    "qonnx": qonnx_table,
    "datafree": datafree_table,
    "uniform": uniform_table,
    "kinds": kinds_table,
    "corrections": corrections_table,
}
