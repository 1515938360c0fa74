"""Observe tensors while a network runs: their histograms are made inside the graph.

The operator ``Observe`` of the library counts a tensor where it is; only the histogram leaves the
runtime. Its specification is :class:`~.counted_histogram.CountedHistogram`. A network with such
operators needs a session of :func:`~.session.make_session`, and is never written to a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, ValueInfoProto, helper

from ...passes.graph.network import Network
from ...passes.graph.protos import graphs_below, nodes_below, unused_prefix
from ..progress import Progress
from ..samples.base import Samples
from .bodies import TOOL_DOMAIN
from .expose import with_outputs
from .session import make_session, run_samples
from .signed_histogram import SignedHistogram

_OUTPUTS = ("counts", "rests", "tops", "moments")


@dataclass(frozen=True)
class Watch:
    """A tensor to observe.

    Attributes:
        tensor: its name; float32.
        axis: of the channels, counted from the front; None: the tensor is one row.
        rows: number of channels; 1 where axis is None.
        bins: of its histogram, where they are not those that calibration uses.
        top: biased exponent of the largest magnitude, where it is known of a tensor of one row:
            larger values count as 0, and neither rests nor moments are gathered. 0: it is found.
    """

    tensor: str
    axis: int | None
    rows: int
    bins: tuple[int, int] | None = None
    top: int = 0

    def histogram(self) -> SignedHistogram:
        """An empty one."""
        return SignedHistogram(self.rows, self.bins)


def with_histograms(
    network: Network, watched: Sequence[Watch], keep: Sequence[str] = (), runs: int = 1
) -> Network:
    """A copy whose outputs are the tensors ``keep`` and four for each watch, in this order.

    With ``runs`` above 1 a session adds up what that many runs, one at a time, observe; the four
    outputs come with the last of them and are empty before. That saves the copying of thousands of
    histograms out of each run.

    Tensors in bodies of If must be float32; those of a branch that was not taken have no values.

    Raises:
        KeyError: no tensor of that name can be observed.
    """
    names = list(dict.fromkeys([*keep, *(watch.tensor for watch in watched)]))
    visible = with_outputs(network, names)
    proto = visible.proto
    found = dict(zip(names, proto.graph.output, strict=True))
    declared = {value.name for value in network.proto.graph.output}
    outputs = [_as_output(found[name], declared) for name in keep]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    prefix = unused_prefix(proto.graph, "observed")
    for number, watch in enumerate(watched):
        made = [f"{prefix}.{number}.{output}" for output in _OUTPUTS]
        histogram = watch.histogram()
        node = helper.make_node(
            "Observe",
            [found[watch.tensor].name],
            made,
            name=f"{prefix}.{number}",
            domain=TOOL_DOMAIN,
            axis=-1 if watch.axis is None else watch.axis,
            rows=watch.rows,
            leading=histogram.leading,
            octaves=histogram.octaves,
            top=watch.top,
            runs=runs,
        )
        proto.graph.node.append(node)
        proto.graph.output.extend(ValueInfoProto(name=name) for name in made)
    proto.opset_import.append(helper.make_opsetid(TOOL_DOMAIN, 1))
    _run_early(proto.graph)
    return visible


def _run_early(graph: GraphProto) -> None:
    """Let what is observed be observed, and freed, as soon as it is there.

    The runtime starts from nodes that nothing reads, the last one first, and runs before each what
    it needs. So these nodes are put at the end, those that need the longest chain of nodes first.
    """
    depths: dict[str, int] = {}
    read: set[str] = set()
    for node in graph.node:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    for inner in nodes_below(graph):
        read.update(inner.input)
    for body in graphs_below(graph):
        if body is not graph:
            read.update(value.name for value in body.output)
    others = [node for node in graph.node if read.intersection(node.output)]
    leaves = [node for node in graph.node if not read.intersection(node.output)]
    leaves.sort(key=lambda node: -max(depths[name] for name in node.output))
    ordered = GraphProto(node=[*others, *leaves])
    del graph.node[:]
    graph.node.extend(ordered.node)


class Observations:
    """Histograms of the watched tensors over many runs.

    Attributes:
        histograms: by tensor name.
        not_finite: names of the tensors that had a value that is NaN or infinite.
    """

    def __init__(self, watched: Sequence[Watch]) -> None:
        self.histograms = {watch.tensor: watch.histogram() for watch in watched}
        self.not_finite: set[str] = set()

    def add(self, outputs: Sequence[np.ndarray]) -> None:
        """Add one run: four arrays for each watch, in its order, as the network gives them."""
        size = len(_OUTPUTS)
        parts = [outputs[start : start + size] for start in range(0, len(outputs), size)]
        for (name, histogram), part in zip(self.histograms.items(), parts, strict=True):
            counts, rests, tops, moments = part
            if len(counts) == 0:  # they come with a later run
                continue
            histogram.merge_observed(counts, rests, tops, moments)
            if histogram.not_finite.any():
                self.not_finite.add(name)

    def state(self) -> list[dict[str, Any]]:
        """What :meth:`merge` takes, a histogram for each watch."""
        return [histogram.state() for histogram in self.histograms.values()]

    def merge(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Add what was observed of other samples."""
        for (name, histogram), own in zip(self.histograms.items(), state, strict=True):
            histogram.merge_state(own)
            if histogram.not_finite.any():
                self.not_finite.add(name)


def with_runs(network: Network, runs: int) -> Network:
    """A copy of a network of :func:`with_histograms` for another number of runs."""
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    for node in proto.graph.node:
        if node.domain == TOOL_DOMAIN and node.op_type == "Observe":
            for attribute in node.attribute:
                if attribute.name == "runs":
                    attribute.i = runs
    return Network(proto, network.weights)


def observe_samples(
    network: Network,
    watched: Sequence[Watch],
    samples: Samples,
    size: int,
    progress: Progress,
    label: str,
) -> Observations:
    """Run a network over all samples and observe it.

    Args:
        network: any that runs on the samples.
        watched: what is observed.
        samples: calibration samples.
        size: how many run at a time.
        progress: told about batches done.
        label: what for.
    """
    observations = Observations(watched)
    runs = samples.batch_count(size)
    session = make_session(with_histograms(network, watched, runs=runs))
    for feed in progress.track(samples.batches(size), runs, label):
        observations.add(run_samples(session, feed, "the model"))
    return observations


def _as_output(value: ValueInfoProto, declared: set[str]) -> ValueInfoProto:
    """Without a type that the model does not declare: the runtime finds it out."""
    return value if value.name in declared else ValueInfoProto(name=value.name)
