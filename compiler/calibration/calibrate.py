"""Calibration: run the network on samples and give every activation a neuron.

What a neuron sees is gathered in a histogram inside the graph (``running/histograms.py``), per
tensor or per channel, and ``fit_neuron.py`` turns it into a neuron. Memory depends on the model and
the batch, not on the number of samples.

Without any correction of errors the samples pass the network once. Otherwise the neurons of the
main graph are fitted, and the layers corrected, in sequence (``sequential.py``); neurons inside
bodies of If, which cannot be cut out, are fitted to the ANN's values before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...passes.analysis.activations import Activation
from ...passes.analysis.layers import Layer
from ...passes.graph.network import Network, constants_of
from ..errors import DataError
from ..options import CompileOptions
from ..progress import Progress
from ..running.histograms import observe_samples
from ..running.probe import first_not_finite
from ..running.signed_histogram import SignedHistogram
from ..samples.base import Samples
from .fitting.watches import Fit, LevelPlan, NotFiniteError, watches_of
from .sequence.exchange import Opener
from .sequence.sequential import calibrate_sequentially
from .sequence.settling import Calibrated
from .unknown_scale import mean_squares


def calibrate(
    network: Network,
    activations: Sequence[Activation],
    layers: Sequence[Layer],
    samples: Samples,
    size: int,
    options: CompileOptions,
    progress: Progress,
    levels: Mapping[str, LevelPlan] | None = None,
    meeting: Sequence[Sequence[Activation]] = (),
    opener: Opener | None = None,
) -> Calibrated:
    """Thresholds and levels for every activation, corrected parameters for every layer.

    Args:
        network: the canonical ANN.
        activations: what becomes a neuron.
        layers: what is corrected; see ``own_parameters``.
        samples: calibration samples.
        size: how many run at a time.
        options: resolved; how neurons are chosen and fitted, and which errors are corrected.
        progress: told how far it is.
        levels: what is planned of neurons, by the activation's output tensor; others have as many
            levels as the options say.
        meeting: groups of activations whose neurons have one step each.
        opener: of the side of the samples of sequential calibration, where it is not here.

    Raises:
        DataError: the network does not run on the samples, or gives NaN or inf.
    """
    ends = samples.ends()
    floors = None if ends is None else mean_squares(network, activations, ends[0])
    layers = layers if ends is None else ()
    fit = Fit(options, levels or {}, floors)
    made = {name for node in network.proto.graph.node for name in node.output}
    outer = [a for a in activations if a.output in made] if options.corrects else []
    inner = [a for a in activations if a not in outer]
    try:
        if meeting:
            fit.share(meeting, _observed(network, meeting, samples, size, fit, progress))
        result = _in_one_pass(network, inner, samples, size, fit, progress)
        if outer:
            found = calibrate_sequentially(
                network,
                outer,
                layers,
                samples,
                size,
                fit,
                options,
                result.neurons,
                progress,
                opener,
            )
            found.neurons = result.neurons | found.neurons
            found.silent = result.silent + found.silent
            result = found
        result.membranes = fit.membranes
        if ends is not None and options.corrects_layers:
            result.changes.append("no layer is corrected, as the scale of the samples is not known")
    except NotFiniteError as error:
        read = [a for a in activations if a.input in error.tensors]
        where = ", ".join(f"{a.op} {a.name}" for a in read[:3])
        advice = _advice(network, [a.input for a in read[:3]], samples)
        raise DataError(
            f"the samples make the input of {where} NaN or infinite; {advice}"
        ) from error
    return result


def _in_one_pass(
    network: Network,
    activations: Sequence[Activation],
    samples: Samples,
    size: int,
    fit: Fit,
    progress: Progress,
) -> Calibrated:
    """Neurons fitted to the ANN's values."""
    result = Calibrated()
    if not activations:
        return result
    histograms = _observed(network, [activations], samples, size, fit, progress)
    for activation in progress.track(activations, len(activations), "thresholds"):
        histogram = histograms[activation.input]
        result.neurons[activation.output] = fit.neuron(activation, histogram)
        if fit.silent(activation, histogram):
            result.silent.append(activation)
    return result


def _observed(
    network: Network,
    groups: Sequence[Sequence[Activation]],
    samples: Samples,
    size: int,
    fit: Fit,
    progress: Progress,
) -> Mapping[str, SignedHistogram]:
    """What activations see in the ANN, by their inputs."""
    watches = watches_of([one for group in groups for one in group], fit.watch)
    observations = observe_samples(network, watches, samples, size, progress, "calibrating")
    if observations.not_finite:
        raise NotFiniteError(observations.not_finite)
    return observations.histograms


def _advice(network: Network, tensors: Sequence[str], samples: Samples) -> str:
    """What to check when values are not finite: the weights, if they are not, or the samples."""
    for name, values in constants_of(network).items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"the weight '{name}' holds NaN or inf, train or export the network again"
    first = first_not_finite(network, tensors, samples)
    return f"check their scaling: {first}" if first else "check their scaling"
