"""Before calibration: channels get one range where neurons have one threshold for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..passes.analysis.activations import Activation, find_activations
from ..passes.graph.surgeon import export_network, import_model
from ..passes.neurons.balance_channels import balance_channels
from .calibration.fitting.rows import distributions
from .calibration.fitting.thresholds import find_thresholds
from .front_end import Prepared
from .options import QONNX, CompileOptions
from .progress import Progress
from .running.histograms import Watch, observe_samples
from .running.signed_histogram import SignedHistogram
from .steps import Steps

#: Power of a channel's step that becomes its scale: 1 serves what neurons round, but the weights
#: behind are rounded too and grow apart. Of 1/2, 3/4 and 1 the best on two networks: docs/qonnx.md.
_SHARE = 0.75


def balanced(
    prepared: Prepared, options: CompileOptions, steps: Steps, progress: Progress
) -> Prepared:
    """The network with its channels balanced; itself where no activation has channels.

    Args:
        prepared: by the front end.
        options: resolved.
        steps: the steps so far.
        progress: told about batches done.
    """
    wide = [activation for activation in prepared.activations if _can_be_balanced(activation)]
    if not wide:
        return prepared
    watches = {a.input: Watch(a.input, 1, a.channels or 1) for a in wide}
    found = observe_samples(
        prepared.analog, list(watches.values()), prepared.seen, prepared.block, progress, "ranges"
    )
    scales = {a.output: _scales(a, found.histograms[a.input], options.levels) for a in wide}
    graph = steps.rewrite(
        "balance_channels",
        lambda: balance_channels(import_model(prepared.analog), scales, options.target == QONNX),
    )
    activations, _ = find_activations(graph)
    by_output = {activation.output: activation for activation in activations}
    return replace(
        prepared,
        analog=export_network(graph),
        activations=activations,
        meeting=[[by_output[a.output] for a in group] for group in prepared.meeting],
    )


def _scales(activation: Activation, histogram: SignedHistogram, levels: int) -> np.ndarray:
    """Of each channel, float64 [C], their product 1."""
    assert activation.function is not None
    rows = distributions(histogram).of(activation.function.evaluate)
    both = rows.has_negative and rows.has_positive
    theta = find_thresholds(rows, 2 * levels if both else levels, "mse").theta.astype(np.float64)
    scales: np.ndarray = (theta / np.exp(np.log(theta).mean())) ** _SHARE
    return scales


def _can_be_balanced(activation: Activation) -> bool:
    """Whether its channels may have scales: f(a x) = a f(x) for a > 0."""
    if activation.function is None or not activation.linear or activation.signed:
        return False
    if not activation.function.homogeneous or activation.channels is None:
        return False
    return activation.axis == 1 and not np.isfinite(activation.upper)
