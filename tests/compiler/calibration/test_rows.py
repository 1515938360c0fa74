"""All channels in the same arrays: to the bit what each of them gives alone."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.calibration.fitting.channel_scales import channel_scales
from snn_compile.compiler.calibration.fitting.distributions import Distribution, spread_bins
from snn_compile.compiler.calibration.fitting.rows import (
    Rows,
    distributions,
    points_of,
    pool,
)
from snn_compile.compiler.running.counted_histogram import CountedHistogram

FUNCTIONS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "mirrored": lambda x: -np.minimum(x, 0),
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "folding": lambda x: x * np.tanh(x),
    "constant": lambda x: np.zeros_like(x),
}


def drawn(kind, rng):
    """Values [samples, channels]."""
    x = rng.normal(0, np.geomspace(1e-3, 1e3, 12), (200, 12)).astype(np.float32)
    if kind == "sparse":
        return x * (rng.random(x.shape) < 0.05)
    if kind == "saturated":
        return np.clip(x, -0.5, 0.25)
    if kind == "one sign":
        return np.abs(x)
    if kind == "few":  # a value, two of them, none but 0
        x = x[:2]
        x[1, :4], x[:, 4:8] = x[0, :4], 0
    if kind == "silent":
        return np.zeros_like(x)
    return x


KINDS = ("normal", "sparse", "saturated", "one sign", "few", "silent")


@pytest.fixture(params=KINDS)
def histogram(request):
    x = drawn(request.param, np.random.default_rng(KINDS.index(request.param)))
    counted = CountedHistogram(x.shape[1])
    counted.add(x.T)
    return counted


def one_by_one(histogram):
    """The rules of ``distributions.py`` for each row, spelled out."""
    for row in range(len(histogram.counts)):
        means, counts = histogram.distribution(row)
        spread = spread_bins(means, counts.astype(np.float64), histogram.leading)
        low, high = spread.low, spread.high
        if len(means):
            least, most = float(histogram.minima[row]), float(histogram.maxima[row])
            if most - means[-1] > 1e-6 * abs(most):
                before = high[-2] if len(means) > 1 else -np.inf
                low[-1], high[-1] = max(before, 2 * means[-1] - most), most
            if means[0] - least > 1e-6 * abs(least):
                behind = low[1] if len(means) > 1 else np.inf
                low[0], high[0] = least, min(behind, 2 * means[0] - least)
        yield spread


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("means", "low", "high", "counts"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_rows_of_a_histogram_are_those_of_each_channel(histogram):
    same(distributions(histogram), list(one_by_one(histogram)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_rows_are_functions_of_each_row(name, histogram):
    function = FUNCTIONS[name]
    rows = distributions(histogram)
    same(rows.of(function), [row.of(function) for row in rows])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_are_those_of_each_row(name, histogram):
    rows = distributions(histogram).of(FUNCTIONS[name])
    each = list(rows)
    assert rows.totals.tolist() == [row.total for row in each]
    assert rows.zeros.tolist() == [row.zeros for row in each]
    assert rows.power == sum(row.power for row in each)
    assert rows.has_positive == any(row.positive.peak > 0 for row in each)
    assert rows.has_negative == any(row.negative.peak > 0 for row in each)
    edges = np.geomspace(1e-4, 2, 33) * np.geomspace(1e-3, 1e3, len(rows))[:, None]
    for side in ("positive", "negative"):
        sides = [getattr(row, side) for row in each]
        found = getattr(rows, side)
        np.testing.assert_array_equal(found.totals.T, [one.totals for one in sides])
        below = [one.below(edge) for one, edge in zip(sides, edges, strict=True)]
        np.testing.assert_array_equal(found.below(edges), np.stack(below, axis=1))


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_points_are_those_of_each_row(parts, histogram):
    rows = distributions(histogram)
    values, row, weights = points_of(rows, parts * len(rows.means), 1, 8)
    expected = []
    for one in rows:
        wide = one.low < one.high
        middles = one.low[:, None] + (one.high - one.low)[:, None] * (
            (np.arange(parts) + 0.5) / parts
        )
        x = np.append(one.means[~wide], middles[wide])
        shares = np.append(one.counts[~wide], np.repeat(one.counts[wide] / parts, parts))
        order = np.argsort(x, kind="stable")
        expected.append((x[order], shares[order]))
    np.testing.assert_array_equal(values, np.concatenate([x for x, _ in expected]))
    np.testing.assert_array_equal(weights, np.concatenate([w for _, w in expected]))
    assert row.tolist() == [i for i, (x, _) in enumerate(expected) for _ in x]


@pytest.mark.parametrize("weigh", [False, True])
def test_pooled_bins_are_those_of_all_values(weigh, histogram):
    rows = distributions(histogram)
    scale = np.geomspace(0.3, 70, len(rows))
    bins: dict[tuple[int, int, int], list[float]] = {}
    for row, unit in zip(rows, scale, strict=True):
        for mean, count in zip(row.means / unit, row.counts, strict=True):
            count *= unit**2 if weigh else 1
            mantissa, exponent = np.frexp(abs(mean))
            part = int(np.floor((mantissa - 0.5) * 256))
            sums = bins.setdefault((int(np.sign(mean)), int(exponent), part), [0.0, 0.0])
            sums[0] += count
            sums[1] += count * mean
    pairs = sorted((total / size, size) for size, total in bins.values())
    expected = spread_bins(*np.array(pairs).T, 7)
    same([pool(rows, scale, weigh)], [expected])


def test_scales_of_channels_are_percentiles_or_those_of_the_tensor(histogram):
    rows = distributions(histogram).of(np.abs)

    def percentile(pairs):
        pairs, seen = sorted(pairs), 0.0
        wanted = 0.999 * sum(count for _, count in pairs)
        for magnitude, count in pairs:
            seen += count
            if seen >= wanted:
                return magnitude or pairs[-1][0]
        return 0.0

    pairs = [list(zip(row.means.tolist(), row.counts.tolist(), strict=True)) for row in rows]
    own, whole = (
        [percentile(one) for one in pairs],
        percentile([pair for one in pairs for pair in one]),
    )
    expected = [
        max(one, whole) if row.total - row.zeros < max(row.total / 10, 300) else one
        for one, row in zip(own, rows, strict=True)
    ]
    scale = channel_scales(rows)
    np.testing.assert_array_equal(scale, np.array(expected if any(own) else [1] * 12, np.float32))


def test_joined_rows_are_the_rows():
    empty = Distribution(*[np.zeros(0)] * 4)
    one = Distribution(np.array([-1.0, 2]), np.array([-1.5, 2]), np.array([-0.5, 2]), np.ones(2))
    rows = Rows.joined([empty, one, empty, one])
    same(rows, [empty, one, empty, one])
    same(rows.of(np.abs), [each.of(np.abs) for each in [empty, one, empty, one]])
    assert rows.positive.totals[1].tolist() == [0, 2, 0, 2]
    assert rows.negative.below(np.ones((4, 1)))[0].tolist() == [[0], [0.5], [0], [0.5]]
    assert Rows.joined(rows) is rows
    same(Rows.joined([one]), [one])
