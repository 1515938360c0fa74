"""Cross-layer scale equalisation: give the channels of a neuron one range, exactly.

Where a neuron stands between operators with constant weights, a scale per channel can be divided
out of what makes its input and multiplied into what reads its output:

    f(W x + b) -> V f(W x + b)    becomes    f((W / s) x + b / s) -> (V s) f((W / s) x + b / s)

for f(a x) = a f(x), a > 0. The network computes the same function up to rounding, and the same bits
where the scales are powers of two; the neuron sees x_c / s_c and one threshold fits all channels.
Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction".

1. ``channel_flow.py`` says which channels can be scaled. A site is a neuron, an activation or an
   encoder, of which at least one channel can.
2. Neurons whose channels must have one scale (a sum of two neurons' branches, a pool and its
   encoder, a value and the attention it enters) share it: the geometric mean of what was asked for,
   over the neurons that asked. Scales of Q and K in Q K^T are inverse to each other.
3. A weight or bias that is read elsewhere too is copied before it is changed.
4. Refused, with the reason: neurons that are not homogeneous (Sigmoid, Clip with an upper bound),
   whose input no constant weights make, or that something other than constant weights reads.

:func:`own_norms` makes sites where a normalisation is read by encoders and by other operators, such
as a residual sum: the encoders read a copy of it, whose gain and bias are then their own.

Precondition: shapes are inferred, nodes are sorted, encoders are in place. Control-flow bodies are
left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..analysis.activations import Activation, Kept, find_activations, is_encoder
from ..analysis.channel_flow import NORM_OPS, ChannelFlow, Parameter
from ..graph.graph import (
    ANN_DOMAIN,
    Graph,
    Node,
    PassResult,
    Tensor,
    inherit,
    is_constant,
    is_standard,
    tidy,
    unique_name,
    values_of,
)
from ..graph.surgeon import add_node, constant, variable

#: A channel whose magnitude is below this share of the largest is nearly silent.
_SILENT = 1e-5


@dataclass(frozen=True, eq=False)
class Site:
    """A neuron whose channels can be scaled.

    Attributes:
        name: node name.
        op: ONNX operator type, or "Encoder".
        input: name of the tensor that the neuron reads.
        output: name of the tensor that it writes, the key.
        axes: axes of that tensor along which channels lie: one, or several where attention heads
            are an axis of their own; none where there is one channel.
        sizes: number of channels along each of these axes.
        groups: int64 [channels], row-major over ``axes``: channels of one group have one scale, in
            all sites; -1: this channel keeps 1.
        powers: int64 [channels]: 1, or -1 where the channel has the inverse of its group's scale.
        tied: outputs of other sites that have a group in common with this one.
    """

    name: str
    op: str
    input: str
    output: str
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    groups: np.ndarray
    powers: np.ndarray
    tied: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Number of channels, those that keep 1 included."""
        return int(self.groups.size)

    @property
    def axis(self) -> int | None:
        """The channel axis where there is one, else None."""
        return self.axes[0] if len(self.axes) == 1 else None


def range_scales(magnitudes: np.ndarray) -> np.ndarray:
    """Scales that give all channels one range: magnitude / geometric mean of the magnitudes.

    The geometric mean keeps the product of the scales at 1, so that weights before and after grow
    as little as they shrink and the range of the tensor stays where it was. Channels below 1e-5 of
    the largest are nearly silent: they have no part in the mean and keep 1, which leaves them below
    the common range.

    Args:
        magnitudes: maxima or percentiles of \\|x\\| per channel, [channels], at least 0.

    Returns:
        float32 of the same shape, above 0.

    Raises:
        ValueError: a magnitude is negative or not finite.
    """
    values = np.asarray(magnitudes, np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError("magnitudes must be finite and at least 0")
    scales = np.ones(values.shape)
    active = values > _SILENT * values.max(initial=0)
    if active.any():
        logarithms = np.log(values[active])
        scales[active] = np.exp(logarithms - logarithms.mean())
    return scales.astype(np.float32)


def find_sites(graph: Graph) -> list[Site]:
    """The sites of a graph, in the order they run."""
    return _Sites(graph).sites


def find_refusals(graph: Graph) -> list[Kept]:
    """The neurons that are no sites, and why."""
    return _Sites(graph).refused


def joint_scales(sites: list[Site], scales: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What every site is scaled by when these scales are asked for: rule 2.

    Args:
        sites: all sites of a graph.
        scales: by :attr:`Site.output`, [channels], above 0; sites may be missing.

    Returns:
        float32 [channels] by :attr:`Site.output`, for all sites.

    Raises:
        ValueError: scales of another size, not above 0 or not finite, or for what is no site.
    """
    groups = _group_scales(sites, scales)
    return {site.output: _of_site(site, groups).astype(np.float32) for site in sites}


def equalise(graph: Graph, scales: Mapping[str, np.ndarray]) -> PassResult:
    """Scale channels: afterwards each site sees x_c / s_c, with s from :func:`joint_scales`.

    Args:
        graph: see the precondition above.
        scales: by :attr:`Site.output`, [channels], above 0; sites may be missing.

    Raises:
        ValueError: scales of another size, not above 0 or not finite, or for what is no site.
    """
    found = _Sites(graph)
    groups = _group_scales(found.sites, scales)
    changes = []
    for site in found.sites:
        used = _of_site(site, groups)
        if np.any(used != 1):
            line = f"channels divided by {used.min():.3g} to {used.max():.3g}"
            changes.append(f"{site.op} {site.name}: {line}")
    changes += [f"kept {kept.op} {kept.name}: {kept.reason}" for kept in found.refused]
    by_input: dict[tuple[int, int], list[Parameter]] = {}
    for parameter in found.flow.parameters:
        key = (id(parameter.node), parameter.position)
        by_input.setdefault(key, []).append(parameter)
    for parameters in by_input.values():
        _rescale(graph, found, parameters, groups)
    return PassResult(graph, changes)


def own_norms(graph: Graph) -> PassResult:
    """Copy each normalisation that encoders and other operators both read, for the encoders alone.

    The function computed is unchanged, bit for bit.
    """
    changes = []
    for node in list(graph.nodes):
        if node.op not in NORM_OPS or not (is_standard(node) or node.domain == ANN_DOMAIN):
            continue
        output = node.outputs[0]
        encoders = [reader for reader in output.outputs if is_encoder(reader)]
        encoders = [reader for reader in encoders if any(reader is n for n in graph.nodes)]
        returned = any(output is result for result in graph.outputs)
        if not encoders or (len(encoders) == len(output.outputs) and not returned):
            continue
        twin = _twin(graph, node)
        for encoder in encoders:
            encoder.inputs[0] = twin
        changes.append(f"{node.op} {node.name}: computed once more for {len(encoders)} encoder")
    tidy(graph)
    return PassResult(graph, changes)


def _twin(graph: Graph, node: Node) -> Tensor:
    output = variable(unique_name(graph, f"{node.outputs[0].name}.own"), node.outputs[0])
    name = unique_name(graph, f"{node.name}.own")
    inputs = list(node.inputs)
    copy = add_node(graph, node.op, name, inputs, output, dict(node.attrs), node.domain)
    inherit(copy, node)
    return output


class _Sites:
    """The sites of a graph and the refusals."""

    def __init__(self, graph: Graph) -> None:
        self.flow = ChannelFlow(graph)
        self._groups: dict[int, tuple[int, int]] = {}  # by root: number, power of its first site
        tensors = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
        found: list[tuple[Activation, np.ndarray]] = []
        self.refused: list[Kept] = []
        for neuron in find_activations(graph)[0]:
            tensor = tensors.get(neuron.output)
            numbers = None if tensor is None else self.flow.of(tensor)
            if numbers is None:
                reason = "it is in a control-flow body"
                if tensor is not None:
                    reason = self.flow.why_none(tensor)
            elif np.all(self.flow.channels.roots(numbers)[0] < 0):
                reason = self.flow.channels.why_fixed(numbers)
            else:
                found.append((neuron, numbers))
                continue
            self.refused.append(Kept(neuron.name, neuron.op, reason))
        self.sites = self._tied([self._site(*each) for each in found])

    def groups(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Group of each channel, -1 where the scale is 1 or no site asks for it, and its power."""
        roots, powers = self.flow.channels.roots(numbers)
        known = [self._groups.get(int(root), (-1, 1)) for root in roots.ravel()]
        groups, first = np.array(known, np.int64).reshape(-1, 2).T
        return groups.reshape(roots.shape), powers * first.reshape(roots.shape)

    def _site(self, neuron: Activation, numbers: np.ndarray) -> Site:
        roots, powers = (array.ravel() for array in self.flow.channels.roots(numbers))
        for root, power in zip(roots, powers, strict=True):
            if root >= 0:
                self._groups.setdefault(int(root), (len(self._groups), int(power)))
        groups, powers = self.groups(numbers)  # the first site's powers are 1
        axes = tuple(axis for axis, size in enumerate(numbers.shape) if size > 1)
        return Site(
            neuron.name,
            neuron.op,
            neuron.input,
            neuron.output,
            axes,
            tuple(numbers.shape[axis] for axis in axes),
            groups.ravel(),
            powers.ravel(),
            (),
        )

    @staticmethod
    def _tied(sites: list[Site]) -> list[Site]:
        members: dict[int, list[str]] = {}
        for site in sites:
            for group in np.unique(site.groups[site.groups >= 0]):
                members.setdefault(int(group), []).append(site.output)
        tied = []
        for site in sites:
            shared = {m for g in np.unique(site.groups) if g >= 0 for m in members[int(g)]}
            others = tuple(o.output for o in sites if o.output in shared and o is not site)
            tied.append(replace(site, tied=others))
        return tied


def _group_scales(sites: list[Site], scales: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scale of each group, float64; one element more, which is 1, so that group -1 finds it."""
    unknown = set(scales) - {site.output for site in sites}
    if unknown:
        raise ValueError(f"no sites: {', '.join(sorted(unknown))}")
    count = 1 + max((int(site.groups.max()) for site in sites), default=-1)
    total, asked = np.zeros(count + 1), np.zeros(count + 1)
    for site in sites:
        if site.output not in scales:
            continue
        wanted = np.asarray(scales[site.output], np.float64)
        if wanted.shape != (site.channels,):
            raise ValueError(
                f"{site.output} has {site.channels} channels, not {list(wanted.shape)}"
            )
        if not np.all(np.isfinite(wanted)) or np.any(wanted <= 0):
            raise ValueError(f"the scales of {site.output} are not finite and above 0")
        np.add.at(total, site.groups, site.powers * np.log2(wanted))
        np.add.at(asked, site.groups, 1)
    total[-1] = 0
    result: np.ndarray = np.exp2(total / np.maximum(asked, 1))
    return result


def _of_site(site: Site, groups: np.ndarray) -> np.ndarray:
    scales: np.ndarray = groups[site.groups] ** site.powers
    return scales


def _rescale(graph: Graph, found: _Sites, parameters: list[Parameter], groups: np.ndarray) -> None:
    """Scale one constant input along all its channels at once, and round once."""
    node, position = parameters[0].node, parameters[0].position
    tensor = node.inputs[position]
    values, changed = values_of(tensor), False
    for parameter in parameters:
        numbers, powers = found.groups(parameter.channels)
        factors = groups[numbers] ** (powers * parameter.power)
        if np.all(factors == 1):
            continue
        changed = True
        shape = values.shape
        view = values if parameter.shape is None else values.reshape(parameter.shape)
        scaled = view * factors
        values = scaled if parameter.shape is None else scaled.reshape(shape)
    if changed:
        _set(graph, node, position, values.astype(np.float32))


def _set(graph: Graph, node: Node, position: int, values: np.ndarray) -> None:
    """Rule 3."""
    tensor = node.inputs[position]
    unshared = len(tensor.outputs) == 1 and not any(tensor is out for out in graph.outputs)
    if unshared and is_constant(tensor):
        tensor.values = values
        return
    name = unique_name(graph, f"{node.name}.{tensor.name}")
    node.inputs[position] = constant(name, values)
