"""The front end: from a model nobody vouches for to a network that is ready to be calibrated.

:data:`FRONT_END` is the order of the passes up to calibration. None of them changes what the
network computes, but for rounding; ``docs/frontend.md`` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..passes.analysis.activations import Activation, find_activations
from ..passes.analysis.layers import Layer, find_layers
from ..passes.analysis.meetings import meetings
from ..passes.analysis.unfit import unfit
from ..passes.canonicalise.canonicalise import canonicalise
from ..passes.fold_batchnorm.fold_batchnorm import fold_batchnorm
from ..passes.graph.graph import Graph, PassResult
from ..passes.graph.network import Network
from ..passes.graph.surgeon import export_network, import_model
from ..passes.neurons.adjust_encoders import adjust_encoders
from ..passes.neurons.encode_edges import encode_edges
from ..passes.neurons.exclude_activations import exclude_activations
from ..passes.neurons.integer_edges import integer_edges
from ..passes.neurons.keep_activations import keep_activations
from ..passes.neurons.keep_preprocessing import keep_preprocessing
from ..passes.neurons.membrane_shortcuts import membrane_shortcuts
from ..passes.neurons.own_parameters import own_parameters
from ..passes.neurons.pool_first import pool_first
from ..passes.recognise.recognise import recognise
from ..runtime_ops.operators import register_schemas
from .calibration.costs import find_suspected, measure_costs
from .calibration.match_samples import matched_samples
from .calibration.sequence.exchange import Opener
from .calibration.tuning.search_scale import hold_out, import_optuna
from .calibration.unknown_scale import overflows, without_range
from .errors import ModelError
from .model_io.fix_batch import fix_batch
from .model_io.load import LoadedModel, load_source
from .options import ALL, MEMBRANE, MOST_INT8, SCALE, CompileOptions
from .progress import Progress
from .report.coverage import Coverage, Shapes, linear_tensors, measure_coverage
from .running.probe import probe
from .running.reference import Reference
from .running.session import batch_size, make_session, run_samples
from .running.threads import Threads, use_threads
from .running.types import with_types
from .samples.base import Samples, input_specs
from .samples.source import Data, Source, opened
from .samples.synthetic import SyntheticSamples
from .steps import Steps

#: Synthetic samples; of large networks fewer, so many that one pass takes about so many
#: multiply-accumulates, but no fewer than that: calibration makes several passes, and what more
#: samples tell of made-up inputs is little.
SYNTHETIC_SAMPLES, FEWEST_SYNTHETIC = 64, 16
_SYNTHETIC_WORK = 8e9
#: Activations that the runtime holds at once, taken as large as the largest.
_ALIVE = 3
#: Bytes of a value.
_FLOAT32 = 4


@dataclass(frozen=True)
class FrontEndPass:
    """A pass and when it is run.

    Attributes:
        run: the pass; its first argument is the graph.
        arguments: its other arguments, from the options.
        wanted: whether the options ask for it.
    """

    run: Callable[..., PassResult]
    arguments: Callable[[CompileOptions], tuple[Any, ...]] = lambda _: ()
    wanted: Callable[[CompileOptions], bool] = lambda _: True

    @property
    def name(self) -> str:
        """Of the step, the function and the file."""
        return self.run.__name__


#: After these every activation and normalisation is one node.
RECOGNITION = (FrontEndPass(canonicalise), FrontEndPass(recognise))

#: After these every neuron is in place.
PLACEMENT = (
    FrontEndPass(fold_batchnorm),
    FrontEndPass(pool_first, wanted=lambda o: o.timesteps == 1 and not o.integers),
    FrontEndPass(
        exclude_activations, lambda o: (o.exclude, o.encode_input), lambda o: bool(o.exclude)
    ),
    FrontEndPass(keep_preprocessing, wanted=lambda o: not o.encodes_whatever_it_costs),
    FrontEndPass(
        keep_activations,
        lambda o: (o.signed, o.integers),
        lambda o: o.timesteps > 1 or o.kind == SCALE or o.integers,
    ),
    FrontEndPass(
        membrane_shortcuts, lambda o: (o.timesteps == 1,), lambda o: o.shortcuts == MEMBRANE
    ),
    FrontEndPass(encode_edges, lambda o: (o.encode_input,), lambda o: o.encode == ALL),
)

#: What some targets and corrections ask for.
COMPLETION = (
    FrontEndPass(integer_edges, lambda o: (o.levels == MOST_INT8,), lambda o: o.integers),
    FrontEndPass(own_parameters, wanted=lambda o: o.corrects_layers),
)

#: The passes up to calibration, in their order.
FRONT_END: tuple[FrontEndPass, ...] = (*RECOGNITION, *PLACEMENT, *COMPLETION)


def apply_passes(
    graph: Graph, passes: Sequence[FrontEndPass], options: CompileOptions, steps: Steps
) -> Graph:
    """Run those of the passes that the options ask for. The graph given is used up."""
    for one in passes:
        if one.wanted(options):
            rewritten = graph
            graph = steps.rewrite(one.name, lambda: one.run(rewritten, *one.arguments(options)))  # noqa: B023
    return graph


def journey(options: CompileOptions) -> list[tuple[str, tuple[Any, ...]]]:
    """What the front end does for these options: each pass and its arguments."""
    return [(one.name, one.arguments(options)) for one in FRONT_END if one.wanted(options)]


@dataclass
class Prepared:
    """A network that is ready to be calibrated, any number of times.

    Attributes:
        analog: the network as the front end leaves it, in standard operators.
        activations: what becomes neurons.
        layers: what calibration corrects.
        meeting: groups of activations whose neurons are to have one step each.
        samples: of calibration and verification.
        batch: how many samples run at a time where what all neurons see is copied.
        block: how many where only some of it is.
        reference: what the ANN gives on the samples.
        held: samples that a search of the scale looks at, and what the ANN gives on them; None
            without a search.
        seen: samples that calibration looks at: all, or those that are not held.
        coverage: what became of every activation and linear operator.
        model: what the report says of the source.
        external_data: the files in which the source kept its weights, if outside the model file.
        steps: what was done so far.
        threads: with how many it was computed, and is, while it is held.
        warnings: what the user has to know.
        opener: of the samples of sequential calibration, where they are in other processes.
    """

    analog: Network
    activations: list[Activation]
    layers: list[Layer]
    meeting: list[list[Activation]]
    samples: Samples
    batch: int
    block: int
    reference: Reference
    held: tuple[Samples, Reference] | None
    seen: Samples
    coverage: Coverage
    model: dict[str, Any]
    external_data: list[Path]
    steps: Steps
    threads: Threads
    warnings: list[str] = field(default_factory=list)
    opener: Opener | None = None


@contextmanager
def prepare(
    model: str | Path | ModelProto,
    calibration: Data | Source | None,
    options: CompileOptions,
    progress: Progress,
) -> Iterator[Prepared]:
    """Load a model, run the front end, and run the ANN on the samples.

    Args:
        model: path of an ONNX model, or the model itself (left unchanged).
        calibration: samples as :mod:`.samples.source` takes them; None for synthetic ones.
        options: resolved.
        progress: told about batches done.

    Raises:
        ModelError: the model is refused, or nothing in it can be converted.
        DataError: the calibration data are refused.
        UsageError: ``options.dump_dir`` cannot be used, or optuna is not installed.
    """
    with (
        use_threads(options.threads) as threads,
        opened(calibration) as source,
        _prepared(model, source, options, threads, progress) as prepared,
    ):
        yield prepared


@contextmanager
def _prepared(
    model: str | Path | ModelProto,
    calibration: Source | None,
    options: CompileOptions,
    threads: Threads,
    progress: Progress,
) -> Iterator[Prepared]:
    if options.search_scale:
        import_optuna()  # refused before any long work
    steps = Steps(options.dump_dir)
    source, ann, samples = _read(model, calibration, options, steps, progress)
    specs = input_specs(ann.proto)
    doubts: list[str] = []
    described = {
        "file": None if isinstance(model, ModelProto) else Path(model).name,
        "producer": f"{ann.proto.producer_name} {ann.proto.producer_version}".strip(),
        "sha256": source.sha256,
        "digest": source.digest,
    }
    graph = _recognised(ann, samples, options, steps)
    if calibration is None:
        with steps("match_samples"):
            samples, doubts = matched_samples(
                *(export_network(graph), specs, SYNTHETIC_SAMPLES),
                *(options.seed, progress, options.wide),
            )
    graph = apply_passes(graph, PLACEMENT, options, steps)
    if isinstance(samples, SyntheticSamples) and overflows(graph, samples):
        samples = samples.standard_normal("values overflow on inputs of other plausible scales")
    graph, left_out = _of_known_range(graph, samples, steps)
    doubts += left_out
    graph, warned = _measured(graph, samples, options, steps, progress)
    graph = apply_passes(graph, COMPLETION, options, steps)
    layers = find_layers(graph) if options.corrects_layers else []
    activations, analog, shapes, coverage = _covered(graph, ann, samples, options.strict)
    if isinstance(samples, SyntheticSamples):
        samples = samples.first(max(int(_SYNTHETIC_WORK / max(coverage.macs, 1)), FEWEST_SYNTHETIC))

    timesteps = options.timesteps if options.stepwise else 1
    batch, block = _batches(activations, shapes, samples, timesteps)
    seen, held = hold_out(samples) if options.search_scale else (samples, samples)
    with steps("reference"):
        reference = Reference(ann, samples, batch, progress)
    with closing(reference), _held(ann, held, batch, options, progress) as wanted:
        ann.weights.clear()  # from here on only those of the folded network are held
        yield Prepared(
            analog,
            activations,
            layers,
            _meeting(graph, activations) if options.equal_steps else [],
            samples,
            batch,
            block,
            reference,
            wanted,
            seen,
            coverage,
            described,
            source.external_data,
            steps,
            threads,
            [*source.warnings, *doubts, *samples.warnings, *warned],
        )


@dataclass(frozen=True)
class Checked:
    """What is known of a network before it is calibrated.

    Attributes:
        analog: the network as the front end leaves it, in standard operators.
        activations: what would become neurons.
        coverage: what would become of every activation and linear operator.
        warnings: what the user has to know.
    """

    analog: Network
    activations: list[Activation]
    coverage: Coverage
    warnings: list[str]


def check_model(
    model: str | Path | ModelProto, calibration: Source | None, options: CompileOptions
) -> Checked:
    """Load a model and run the front end on one sample, without calibration.

    Which encoders cost too much is not measured: that takes samples and time.

    Args:
        model: path of an ONNX model, or the model itself (left unchanged).
        calibration: opened; None for a synthetic sample.
        options: resolved.

    Raises:
        As :func:`prepare`.
    """
    steps = Steps(None)
    source, ann, samples = _read(model, calibration, options, steps, Progress())
    graph = _recognised(ann, samples, options, steps)
    graph = apply_passes(graph, (*PLACEMENT, *COMPLETION), options, steps)
    activations, analog, _, coverage = _covered(graph, ann, samples, options.strict)
    return Checked(analog, activations, coverage, [*source.warnings, *samples.warnings])


def _read(
    model: str | Path | ModelProto,
    calibration: Source | None,
    options: CompileOptions,
    steps: Steps,
    progress: Progress,
) -> tuple[LoadedModel, Network, Samples]:
    """The model as it was read, as it is compiled, and samples of its inputs."""
    register_schemas()
    with steps("load") as step:
        source = load_source(model if isinstance(model, ModelProto) else Path(model))
        step.changes += source.changes
        step.network = ann = source.network
    if options.batch is not None:
        with steps("fix_batch") as step:
            step.network = ann = fix_batch(ann, options.batch)
    specs = input_specs(ann.proto)
    if calibration is None:
        return source, ann, SyntheticSamples(specs, SYNTHETIC_SAMPLES, options.seed)
    return source, ann, calibration.open(specs, progress)


def _recognised(ann: Network, samples: Samples, options: CompileOptions, steps: Steps) -> Graph:
    """The graph in which every activation is one node.

    Raises:
        ModelError: it cannot be compiled.
    """
    # Before any pass sees it, the runtime has to accept the model.
    run_samples(make_session(ann, library=False), next(samples.batches(1)), "the model")
    graph = apply_passes(import_model(with_types(ann)), RECOGNITION, options, steps)
    for reason in unfit(graph):
        raise ModelError(reason)
    return graph


def _covered(
    graph: Graph, ann: Network, samples: Samples, strict: bool
) -> tuple[list[Activation], Network, Shapes, Coverage]:
    """What becomes neurons, the network as it is calibrated, its shapes, and the coverage.

    Raises:
        ModelError: nothing becomes a neuron, or with ``strict`` an activation is kept.
    """
    activations, kept = find_activations(graph)
    analog = export_network(graph)
    seen_once = [*linear_tensors(graph), *(activation.input for activation in activations)]
    shapes = probe(analog, seen_once, next(samples.batches(1)))
    coverage = measure_coverage(graph, activations, kept, ann.proto, shapes)
    _require_neurons(activations, coverage, strict)
    return activations, analog, shapes, coverage


def _of_known_range(graph: Graph, samples: Samples, steps: Steps) -> tuple[Graph, list[str]]:
    """Without the encoders of which no sample tells what they will see, and warnings of them."""
    left_out = without_range(graph, samples)
    if not left_out:
        return graph, []
    graph = steps.rewrite("adjust_encoders", lambda: adjust_encoders(graph, left_out, ()))
    return graph, list(left_out.values())


def _measured(
    graph: Graph, samples: Samples, options: CompileOptions, steps: Steps, progress: Progress
) -> tuple[Graph, list[str]]:
    """Without the encoders that cost more than all other neurons together, and warnings of them."""
    suspected = find_suspected(graph, options) if options.encode == ALL else {}
    if not suspected:
        return graph, []
    with steps("measure_costs") as step:
        costs = measure_costs(graph, suspected, samples, options, progress)
        step.changes += costs.changes
    if not (costs.left_out or costs.relative):
        return graph, []
    graph = steps.rewrite(
        "adjust_encoders", lambda: adjust_encoders(graph, costs.left_out, costs.relative)
    )
    return graph, list(costs.left_out.values())


def _meeting(graph: Graph, activations: list[Activation]) -> list[list[Activation]]:
    by_output = {activation.output: activation for activation in activations}
    return [[by_output[name] for name in group] for group in meetings(graph, by_output)]


@contextmanager
def _held(
    ann: Network, held: Samples, batch: int, options: CompileOptions, progress: Progress
) -> Iterator[tuple[Samples, Reference] | None]:
    """The samples of a search, and what the ANN gives on them."""
    if not options.search_scale:
        yield None
        return
    with closing(Reference(ann, held, batch, progress)) as reference:
        yield held, reference


def _batches(
    activations: list[Activation], shapes: Shapes, samples: Samples, timesteps: int
) -> tuple[int, int]:
    """Samples per batch where what all neurons see is copied, and where one at a time is.

    With several timesteps each sample takes as many rows.
    """
    if samples.fixed_batch:
        return samples.fixed_batch, samples.fixed_batch
    names = {activation.input for activation in activations}
    held = [_FLOAT32 * math.prod(shapes[name]) for name in names if name in shapes]
    batch, block = batch_size(sum(held)), batch_size(_ALIVE * max(held, default=0))
    return max(batch // timesteps, 1), max(block // timesteps, 1)


def _require_neurons(activations: list[Activation], coverage: Coverage, strict: bool) -> None:
    kept = coverage.kept_activations()
    listed = "; ".join(f"{line.op} {line.name}: {line.reason}" for line in kept[:5])
    if not activations:
        what = f"none of its {len(kept)} activations can ({listed})" if kept else "it has none"
        raise ModelError(f"nothing to convert: no activation of the model becomes a neuron, {what}")
    if strict and kept:
        raise ModelError(f"{len(kept)} activations would be kept, --strict allows none: {listed}")
