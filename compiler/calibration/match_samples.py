"""Made-up samples for which a network's values are those of a trained network.

Thresholds follow the values that the samples cause, so made-up inputs have to be of the scale and
mean that the network was trained with. Neither is in the model, but both have left their traces:

1. Where a network begins with a scaling of its input, the scale is 1 and the mean 0 behind it
   (``input_frame.py``). All that follows is in this frame.
2. The statistics of batch normalisation, or the biases into which it was folded, tell the scale and
   the mean (``match_statistics.py``).
3. Unless that is sure, and a scale that the answers of a classifier allow, samples are of all
   scales that they allow, and of 1 to an octave (``plausible_scales.py``): no scale is bad then,
   where levels can be relatively close to values of all (``unknown_scale.py``).
4. Where levels are equally far apart or few, so that this would leave none of use, the answers tell
   one scale roughly, or that it is about 1 (``match_logits.py``).
5. Matched inputs of rank 4 are dead leaves, others noise; those of rule 3 both: ``synthetic.py``.
6. Otherwise, with several inputs, and where the network does not run on such inputs, floats are
   standard normal. The origin of the samples says why, and so does a warning, unless 2 holds.
7. Integers that a Gather looks up in a constant table are drawn from its rows, directly or after
   operators that keep values. Other integers whose name has "mask" in it are 1: nothing is hidden.
   Bytes of rank 4 are images: the pixels of dead leaves, from 0 to 255. What others mean is not
   known: they are 0 and 1, and there is a warning.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from ...passes.analysis.operators import Inputs, properties
from ...passes.graph.network import Network
from ...passes.graph.protos import attributes_of
from ..progress import Progress
from ..samples.base import InputSpec
from ..samples.synthetic import Look, SyntheticSamples
from .input_frame import input_frame
from .match_logits import match_logits
from .match_statistics import match_statistics
from .plausible_scales import plausible_scales
from .probes import NotMatchedError

#: Octaves around scale 1 that samples of all plausible scales have too.
_STANDARD = (-1.0, 1.0)
#: Times as many samples where they are of all plausible scales.
_MORE = 2
_ADVICE = "give real samples with --calibration if yours are not"


def matched_samples(
    network: Network,
    specs: list[InputSpec],
    count: int,
    seed: int,
    progress: Progress,
    wide: bool = False,
) -> tuple[SyntheticSamples, list[str]]:
    """Made-up samples that suit the network.

    Args:
        network: a model that runs, in canonical form (``canonicalise.py``); constants elsewhere
            than in initializers of the graph are not seen.
        specs: its inputs.
        count: number of samples; twice as many are made where they are of many scales.
        seed: the same seed gives the same samples.
        progress: told about scales and means tried.
        wide: neurons' levels can be relatively close to values of many scales.

    Returns:
        Samples whose ``origin`` says what they look like, or why they are standard normal, and
        warnings for the user: a line for each doubt.
    """
    looks, texts, warnings = _integer_looks(network.proto.graph, specs)
    floats = [spec for spec in specs if spec.dtype.kind == "f"]
    looks |= {spec.name: Look(frame=input_frame(network, spec)) for spec in floats}
    if floats and len(specs) == 1:
        plain = looks[specs[0].name]
        look, text, doubt = _float_look(network, specs[0], plain, seed, progress, wide)
        looks[specs[0].name] = look
        warnings += [doubt] if doubt else []
    else:
        text = "not matched to the network, which has other inputs than one of floats"
        if floats:
            warnings.append(
                "the network has other inputs than one of floats, so the scale of synthetic ones "
                f"is not matched: they are standard normal; {_ADVICE}"
            )
    if floats or len(looks) < len(specs):
        texts.insert(0, text)
    if any(look.pattern == "any" for look in looks.values()):
        count *= _MORE
    return SyntheticSamples(specs, count, seed, looks, "; ".join(texts)), warnings


def _float_look(
    network: Network, spec: InputSpec, plain: Look, seed: int, progress: Progress, wide: bool
) -> tuple[Look, str, str]:
    """Rules 2 to 6 for the only input: its look, what to say about it, and a warning or nothing."""
    images = len(spec.shape) == 4
    wanted = replace(plain, pattern="leaves" if images else "noise")
    behind = "" if plain.frame.is_plain else " behind the network's own scaling of its input"
    match, told, reason = None, "", "whose answers suit inputs of scale 1"
    try:
        match = match_statistics(network, spec, wanted, seed, progress)
        told = f"{_described(match.look)}{behind}, {match.text}"
        if match.kept:
            return match.look, told, ""
    except NotMatchedError as error:
        reason = str(error)
    unknown = replace(plain, pattern="any")
    plausible = plausible_scales(network, spec, unknown, seed, progress) if wide else None
    if match and match.sure and _within(np.log2(match.look.scale), plausible):
        return match.look, told, ""
    if plausible is not None:
        least, most = min(plausible[0], _STANDARD[0]), max(plausible[1], _STANDARD[1])
        look = replace(unknown, scale=2.0**most, octaves=most - least)
        doubt = (
            f"the network does not tell the scale of its inputs: the synthetic ones{behind} are of "
            f"scales from {2.0**least:.3g} to {2.0**most:.3g}, and levels suit all of these; give "
            "real samples with --calibration for closer ones"
        )
        return look, f"{_described(look)}{behind}, all that are plausible", doubt
    try:
        answers = match_logits(network, spec, wanted, seed, progress)
    except NotMatchedError:
        if match:
            return match.look, told, ""
    else:
        if answers:
            doubt = (
                f"the scale of the synthetic inputs{behind} follows from nothing but the spread "
                "of the network's answers; give real samples with --calibration to be sure"
            )
            return answers[0], f"{_described(answers[0])}{behind}, {answers[1]}", doubt
    doubt = f"the synthetic inputs are standard normal{behind}, not matched to the network, "
    short = reason.split(":")[0]
    return plain, f"not matched to the network, {reason}{behind}", f"{doubt}{short}; {_ADVICE}"


def _within(octave: float, plausible: tuple[float, float] | None) -> bool:
    return plausible is None or plausible[0] <= octave <= plausible[1]


def _described(look: Look) -> str:
    what = {"leaves": "dead leaves images", "any": "patterns"}.get(look.pattern, "noise")
    if look.octaves:
        return f"{what} of scales {look.scale * 2.0**-look.octaves:.3g} to {look.scale:.3g}"
    return f"{what} of scale {look.scale:.3g} and mean {look.offset * look.scale:.3g}"


def _integer_looks(
    graph: GraphProto, specs: list[InputSpec]
) -> tuple[dict[str, Look], list[str], list[str]]:
    """Rule 7: the looks that are known, what to say of them, and warnings."""
    looks, texts, warnings = {}, [], []
    for spec in specs:
        if spec.dtype.kind == "f":
            continue
        rows = _table_rows(graph, spec.name)
        if rows is not None and spec.dtype.kind in "iu":
            looks[spec.name] = Look(rows=min(rows, int(np.iinfo(spec.dtype).max)))
            texts.append(f"integers of {spec.name} from 0 to {looks[spec.name].rows - 1}")
        elif "mask" in spec.name.lower():
            looks[spec.name] = Look(low=1, rows=1)
        elif spec.dtype == np.uint8 and len(spec.shape) == 4:
            looks[spec.name] = Look("leaves", rows=256)
            texts.append(f"dead leaves images of {spec.name} from 0 to 255")
        elif spec.dtype.kind in "iu":
            warnings.append(
                f"what the integers of input '{spec.name}' mean is not known, the synthetic ones "
                "are 0 and 1; give real samples with --calibration"
            )
    return looks, texts, warnings


def _table_rows(graph: GraphProto, name: str) -> int | None:
    """Rows of the shortest constant table in which the input's values are looked up."""
    tables = {tensor.name: tensor for tensor in graph.initializer}
    same, rows = {name}, []
    for node in graph.node:  # sorted, so one walk is enough
        if _keeps_values(node) and node.input[0] in same:
            same.update(node.output)
        elif node.op_type == "Gather" and node.input[1] in same and node.input[0] in tables:
            rows.append(_length(tables[node.input[0]], _axis(node)))
    found = min((length for length in rows if length), default=0)
    return found or None


def _keeps_values(node: NodeProto) -> bool:
    """Whether its outputs hold values of its first input, moved, selected or of another type."""
    return node.op_type == "Cast" or properties(node.op_type).moves is Inputs.FIRST


def _axis(node: NodeProto) -> int:
    return int(attributes_of(node).get("axis", 0))


def _length(tensor: TensorProto, axis: int) -> int:
    return int(tensor.dims[axis]) if -len(tensor.dims) <= axis < len(tensor.dims) else 0
