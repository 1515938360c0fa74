"""What the tables of docs/timesteps.md have: series, each of them at several T, and timings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from typing import Any

from accuracy_configuration import Configuration
from shared_networks import DIGITS, EFFICIENTNET, KEYWORDS, RESNET, Network

TIMESTEPS = (1, 2, 4, 8, 16, 32)
#: Networks, and the test samples that are used of each.
SAMPLES = {RESNET.name: 1000, KEYWORDS.name: 500, DIGITS.name: 1000, EFFICIENTNET.name: 200}
#: T of the networks that are slow to calibrate over time.
_FEW = {EFFICIENTNET.name: (8, 32)}
PEERS = {"spikingjelly": ("spikingjelly", "torch"), "sinabs": ("sinabs", "torch")}
#: Sizes at which each network is timed; the better one counts.
_BATCHES = (50, 10)
_SMALL_BATCHES = {EFFICIENTNET.name: (4, 1)}  # of 50 images at 32 steps a tensor takes 8 GB
#: Calibration and test samples of the networks that are timed: how long one takes depends on its
#: operators, not on its thresholds.
_TIMED = (16, 16)
_QUICK = (20, 16, (1, 4))
_LEVELS = 4


@dataclass(frozen=True)
class Series:
    """One line of the plot: a way to make a spiking network, at each T.

    Attributes:
        name: of the series.
        title: for the tables.
        what: see ``timesteps_worker.py``.
        options: besides T.
        one_step: it is there for T = 1 only.
    """

    name: str
    title: str
    what: str = "compile"
    options: dict[str, Any] = field(default_factory=dict)
    one_step: bool = False


OURS = (
    Series("signed", "signed IF, immediate (default)", options={"levels": 1}),
    Series("levels", f"signed, {_LEVELS} levels, immediate", options={"levels": _LEVELS}),
    Series("delayed", "IF, delayed", options={"levels": 1, "firing": "delayed"}),
    Series(
        *("delayed_levels", f"{_LEVELS} levels, delayed"),
        options={"levels": _LEVELS, "firing": "delayed"},
    ),
    Series("immediate", "IF, immediate", options={"levels": 1, "neuron": "multi-threshold"}),
    Series(
        *("spikes", "IF, immediate, spikes on shortcuts"),
        options={"levels": 1, "neuron": "multi-threshold", "shortcuts": "spikes"},
    ),
    *(
        Series(f"one_{n}", f"one step, N = {n}", options={"levels": n}, one_step=True)
        for n in (32, 16, 8)
    ),
)
OTHERS = (
    Series("robust", "SpikingJelly, robust", "spikingjelly", {"mode": "robust"}),
    Series("percentile", "SpikingJelly, 99.9 %", "spikingjelly", {"mode": "99.9%"}),
    Series("max", "SpikingJelly, max", "spikingjelly", {"mode": "max"}),
    Series("multi", "sinabs, multiple spikes", "sinabs", {"mode": "multi"}),
    Series("single", "sinabs, single spikes", "sinabs", {"mode": "single"}),
)
#: Other tools' series whose time is measured; a tool's other modes take as long.
_TIMED_OTHERS = ("robust", "multi")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        networks: those that are there.
        rounds: how often times are measured.
        quick: few samples, T = 1 and 4.
        chosen: names of the series that are wanted; none: all.
        timed: the networks are there to be timed.
    """

    networks: tuple[Network, ...]
    rounds: int = 3
    quick: bool = False
    chosen: tuple[str, ...] = ()
    timed: bool = False

    def timesteps(self, network: Network) -> tuple[int, ...]:
        """The T of a network."""
        return _QUICK[2] if self.quick else _FEW.get(network.name, TIMESTEPS)

    def counts(self, network: Network) -> tuple[int, int]:
        """Calibration samples and test samples."""
        if self.timed:
            return _TIMED
        if self.quick:
            return _QUICK[:2]
        return network.calibration, SAMPLES[network.name]

    def series(self, network: Network) -> tuple[Series, ...]:
        """Those of a network: other tools convert ResNet-20 alone."""
        found = [s for s in OTHERS if network == RESNET and util.find_spec(s.what) is not None]
        return tuple(s for s in (*OURS, *found) if not self.chosen or s.name in self.chosen)

    def accuracy(self, network: Network, series: Series, timesteps: int) -> Configuration | None:
        """What has the accuracy of a series at T, if anything."""
        if timesteps not in self.timesteps(network) or (series.one_step and timesteps > 1):
            return None
        options = dict(series.options)
        if series.what != "compile":
            options["timesteps"] = list(self.timesteps(network))  # one run has all
            options["versions"] = versions(PEERS[series.what])
        elif series.one_step:
            pass
        elif timesteps > 1:
            options["timesteps"] = timesteps
        else:  # there is nothing to be delayed
            options.pop("firing", None)
            options["neuron"] = "multi-threshold"
        calibration, test = self.counts(network)
        return Configuration(series.what, network.name, 0, calibration, test, options)

    def accuracies(self) -> list[Configuration]:
        """All of them, each network's largest T first: those take long, and matter most."""
        found = [
            self.accuracy(network, series, timesteps)
            for network in self.networks
            for timesteps in sorted(self.timesteps(network), key=_turn)
            for series in self.series(network)
        ]
        return [
            configuration
            for configuration in found
            if configuration is not None and not (self.timed and configuration.what in PEERS)
        ]

    def times(self) -> list[Configuration]:
        """Timings: each is all that is timed at one T, side by side, in one round."""
        return [
            configuration
            for number in range(self.rounds)
            for network in self.networks
            for timesteps in sorted(self.timesteps(network), key=_turn)
            for configuration in self.times_of(network, timesteps, [number])
        ]

    def times_of(
        self, network: Network, timesteps: int, rounds: Sequence[int] | None = None
    ) -> Iterator[Configuration]:
        """The timings of one T."""
        for number in range(self.rounds) if rounds is None else rounds:
            timed = [s for s in self.series(network) if s in OURS or s.name in _TIMED_OTHERS]
            names = [s.name for s in timed if timesteps == 1 or not s.one_step]
            options = {"timesteps": timesteps, "round": number, "series": names}
            yield Configuration("time", network.name, 0, *self.counts(network), options)


def timing_batches(network: Network) -> tuple[int, ...]:
    """Sizes at which a network is timed."""
    return _SMALL_BATCHES.get(network.name, _BATCHES)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of packages."""
    return {name: metadata.version(name) for name in packages}


def _turn(timesteps: int) -> int:
    """8, 32, 4 and then the others."""
    first = (8, 32, 4)
    return first.index(timesteps) if timesteps in first else len(first)
