"""The stage between front end and target: neurons, and the network quantised by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..passes.analysis.activations import Activation
from ..passes.graph.network import Network
from ..passes.graph.surgeon import export_network, import_model
from ..passes.neurons.exact_sums import exact_sums
from ..passes.neurons.fold_scales import fold_scales
from ..passes.neurons.insert_quant_clip import insert_quant_clip
from ..passes.neurons.neuron import Neuron
from ..passes.neurons.own_parameters import set_parameters
from ..passes.neurons.replace_activation import replace_activation
from .calibration.calibrate import calibrate
from .calibration.fitting.membrane import Membrane
from .calibration.fitting.watches import LevelPlan
from .calibration.tuning.levels_budget import BudgetReport, plan_levels
from .calibration.tuning.search_scale import SearchReport, scale_steps, search_scale
from .calibration.tuning.shrink_levels import shrink_levels
from .front_end import Prepared
from .options import MOST_INT8, CompileOptions
from .progress import Progress
from .steps import Steps
from .targets.target import Quantised


@dataclass(frozen=True)
class Chosen:
    """What calibration chose.

    Attributes:
        neurons: by the activation's output tensor.
        network: the analog network, its layers corrected.
        membranes: what the neurons were fitted to, keyed like these.
        weight_steps: of weights that are rounded, the step per output channel, by name.
        silent: activations that are 0 on every sample.
        levels_budget: how the levels were planned, if they were.
        search: how the scale was searched, if it was.
    """

    neurons: Mapping[str, Neuron]
    network: Network
    membranes: Mapping[str, Membrane]
    weight_steps: Mapping[str, np.ndarray]
    silent: list[Activation]
    levels_budget: BudgetReport | None
    search: SearchReport | None


def choose_neurons(
    prepared: Prepared, options: CompileOptions, steps: Steps, progress: Progress
) -> Chosen:
    """Plan levels if asked, fit neurons and correct layers, search or set the scale, drop levels.

    Args:
        prepared: by the front end.
        options: resolved.
        steps: the steps so far.
        progress: told about batches done.

    Raises:
        DataError: the network gives NaN or inf on the samples.
    """
    analog, activations, block = prepared.analog, prepared.activations, prepared.block
    # Membranes have all levels of 8 bits, whatever the neurons have.
    levels = {a.output: LevelPlan(MOST_INT8) for a in activations if a.membrane}
    budget = search = None
    if options.levels_budget and len(activations) > 1:
        with steps("plan_levels"):
            covered = prepared.coverage
            levels, budget = plan_levels(
                *(analog, activations, prepared.seen, block, options),
                *(covered.macs, covered.fan_out, progress),
            )
    with steps("calibrate") as step:
        calibrated = calibrate(
            *(analog, activations, prepared.layers, prepared.seen, block),
            *(options, progress, levels, prepared.meeting, prepared.opener),
        )
        step.changes += calibrated.changes
    graph = import_model(analog)
    set_parameters(graph, calibrated.parameters)
    corrected, neurons = export_network(graph), dict(calibrated.neurons)
    if prepared.held is not None:
        with steps("search_scale"):
            neurons, search = search_scale(
                corrected, activations, neurons, *prepared.held, options, progress
            )
    if options.scale != 1:
        with steps("scale_steps"):
            neurons = scale_steps(activations, neurons, options.scale)
    # Several timesteps share the levels, all of them; 8 bits without the highest need a Min.
    if options.timesteps == 1 and not options.integers:
        with steps("shrink_levels") as step:
            neurons, changes = shrink_levels(
                corrected, activations, neurons, prepared.samples, block, progress
            )
            step.changes += changes
    return Chosen(
        neurons,
        corrected,
        calibrated.membranes,
        calibrated.weight_steps,
        calibrated.silent,
        budget,
        search,
    )


def quantise(
    chosen: Chosen, steps: Steps, fold_thresholds: bool = False, exact: bool = False
) -> Quantised:
    """The network with these neurons, as quantised ANN and as SNN.

    Args:
        chosen: the neurons.
        steps: the steps so far.
        fold_thresholds: thresholds go into the layers around uniform neurons where they can.
        exact: weights are rounded so that sums are exact.
    """
    network = chosen.network
    if exact:
        graph = steps.rewrite(
            "exact_sums", lambda: exact_sums(import_model(chosen.network), chosen.neurons)
        )
        network = export_network(graph)
    with steps("fold_scales") as step:
        folded, neurons = fold_scales(import_model(network), chosen.neurons, fold_thresholds)
        step.network, step.changes = export_network(folded.graph), folded.changes
        network = step.network
    graph = steps.rewrite(
        "insert_quant_clip", lambda: insert_quant_clip(import_model(network), neurons)
    )
    ann = export_network(graph)
    graph = steps.rewrite("replace_activation", lambda: replace_activation(import_model(ann)))
    return Quantised(ann, export_network(graph), chosen.weight_steps)
