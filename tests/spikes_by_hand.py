"""Spikes and synaptic operations counted by loops over every product, for small networks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper
from snn_compile.compiler.counting.spikes import SpikeMeter
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import detach
from snn_compile.runtime_ops.operators import register_schemas


def network(text, *, inferred=True, **constants):
    """A network from text, with names for its nodes and these constants.

    ``inferred``: with the shapes of its tensors, as compiled networks have them.
    """
    register_schemas()
    header = '<ir_version: 8, opset_import: ["" : 17, "ai.snn" : 1]>\n'
    model = onnx.parser.parse_model(header + text)
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    for node in model.graph.node:
        node.name = f"{node.op_type} of {node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return detach(onnx.shape_inference.infer_shapes(model) if inferred else model)


def measure(snn, *feeds, **options):
    """Neurons and synapses by name, and the meter."""
    meter = SpikeMeter(snn, ["z"], **options)
    session, plain = make_session(meter.network), make_session(snn)
    for feed in feeds:
        outputs = session.run(None, feed)
        np.testing.assert_array_equal(outputs[0], plain.run(["z"], feed)[0])
        meter.add(outputs)
    neurons, synapses = meter.result()
    return {n.name: n for n in neurons}, {s.name: s for s in synapses}


def values_of(snn, names, feed):
    """What the tensors hold, of a network that counts nothing."""
    return make_session(with_outputs(snn, names)).run(None, feed)


def spikes_of_values(*neurons):
    """k by value, of neurons given as (steps, {k: level}); all their values must differ."""
    found = {0.0: 0}
    for steps, levels in neurons:
        for step, (k, level) in itertools.product(np.float32(steps).reshape(-1), levels.items()):
            value = float(np.float32(step * np.float32(level)))
            assert found.setdefault(value, k) == k, "choose other steps"
    return np.vectorize(lambda value: found[float(value)], otypes=[np.int64])


def products(node, a, b):
    """Indices of both operands in every product, for operands of these shapes."""
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    if node.op_type == "MatMul":
        batch = np.broadcast_shapes(a[:-2], b[:-2])
        for at in np.ndindex(*batch, a[-2], b[-1], a[-1]):
            *outer, m, n, k = at
            yield (*_broadcast(outer, a[:-2]), m, k), (*_broadcast(outer, b[:-2]), k, n)
    elif node.op_type == "Gemm":
        flip = [attributes.get(name, 0) for name in ("transA", "transB")]
        rows, inner = a[::-1] if flip[0] else a
        for m, n, k in np.ndindex(rows, b[0] if flip[1] else b[1], inner):
            yield ((k, m) if flip[0] else (m, k)), ((n, k) if flip[1] else (k, n))
    elif node.op_type == "Einsum":
        terms = attributes["equation"].decode().split("->")[0].split(",")
        lengths = dict(zip("".join(terms), (*a, *b), strict=True))
        for at in np.ndindex(*lengths.values()):
            index = dict(zip(lengths, at, strict=True))
            yield tuple(tuple(index[label] for label in term) for term in terms)
    else:
        yield from _windows(node.op_type, attributes, a, b)


def _broadcast(at, shape):
    at = at[len(at) - len(shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(at, shape, strict=True))


def _windows(op, attributes, x, w):
    """Of Conv and ConvTranspose with explicit pads."""
    spatial = len(x) - 2
    strides = attributes.get("strides", [1] * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    pads = attributes.get("pads", [0] * 2 * spatial)
    extra = attributes.get("output_padding", [0] * spatial)
    groups = attributes.get("group", 1)
    reach = [(k - 1) * d + 1 for k, d in zip(w[2:], dilations, strict=True)]
    axes = range(spatial)
    if op == "Conv":
        size = [(x[2 + i] + pads[i] + pads[i + spatial] - reach[i]) // strides[i] + 1 for i in axes]
        outputs = w[0] // groups
        for n, o, c in np.ndindex(x[0], w[0], w[1]):
            channel = o // outputs * w[1] + c
            for at in np.ndindex(*size, *w[2:]):
                p, k = at[:spatial], at[spatial:]
                place = [p[i] * strides[i] + k[i] * dilations[i] - pads[i] for i in axes]
                if all(0 <= place[i] < x[2 + i] for i in axes):
                    yield (n, channel, *place), (o, c, *k)
        return
    size = [
        (x[2 + i] - 1) * strides[i] + extra[i] + reach[i] - pads[i] - pads[i + spatial]
        for i in axes
    ]
    for at in np.ndindex(*x, *w[1:]):
        place, o, k = at[: len(x)], at[len(x)], at[len(x) + 1 :]
        p = [place[2 + i] * strides[i] + k[i] * dilations[i] - pads[i] for i in axes]
        if all(0 <= p[i] < size[i] for i in axes):
            yield place, (place[1], o, *k)


def count(node, a, b):
    """Totals over every product: operands are int64 spikes, or float weights.

    Returns "macs", and of the spikes "events", "unary", "bit_serial" and "graded".
    """
    totals = Counter()
    spiking = [np.asarray(operand).dtype.kind == "i" for operand in (a, b)]
    for index in products(node, a.shape, b.shape):
        pair = [int(a[index[0]]) if spiking[0] else a[index[0]],
                int(b[index[1]]) if spiking[1] else b[index[1]]]  # fmt: skip
        if any(value == 0 for value, spikes in zip(pair, spiking, strict=True) if not spikes):
            continue
        totals["macs"] += 1
        unary, bits, events = 1, 1, 1
        for value, spikes in zip(pair, spiking, strict=True):
            if spikes:
                unary *= abs(value)
                bits *= bin(abs(value)).count("1")
                events *= value != 0
        totals["unary"] += unary
        totals["bit_serial"] += bits
        totals["graded"] += events
    operands = zip((a, b), spiking, strict=True)
    totals["events"] = sum(int((operand != 0).sum()) for operand, spikes in operands if spikes)
    return totals


def assert_counted(synapse, expected, samples):
    """A result is exactly these totals over so many samples."""
    found = {name: getattr(synapse, name) for name in ("macs", *COUNTS)}
    assert found == {name: expected[name] / samples for name in found}
    assert synapse.analog == ""


COUNTS = ("events", "unary", "bit_serial", "graded")
