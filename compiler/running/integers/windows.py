"""The values under each place of a sliding window: what convolutions and pools read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def window_pieces(
    x: np.ndarray, kernel: Sequence[int], out: Sequence[int], attributes: dict[str, Any]
) -> Iterator[np.ndarray]:
    """For each place in the window, in order, what lies under it, of all windows.

    Memory is that of the padded input and of one such tensor.

    Args:
        x: [N, C, *spatial]; what lies outside counts as 0.
        kernel: extent of the window on each spatial axis.
        out: number of windows on each.
        attributes: of Conv or AveragePool.

    Yields:
        Values of shape [N, C, *out], places in row-major order.
    """
    rank = len(kernel)
    strides = attributes.get("strides") or [1] * rank
    dilations = attributes.get("dilations") or [1] * rank
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    # How far windows reach, which ceil_mode lets end outside of the padding.
    reach = [(n - 1) * s + span for n, s, span in zip(out, strides, spans, strict=True)]
    before = _pads_before(x.shape[2:], reach, attributes)
    after = [
        max(end - begin - n, 0) for end, begin, n in zip(reach, before, x.shape[2:], strict=True)
    ]
    if any(before) or any(after):
        x = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    for place in np.ndindex(*kernel):
        parts = [
            slice(p * d, p * d + (n - 1) * s + 1, s)
            for p, d, n, s in zip(place, dilations, out, strides, strict=True)
        ]
        yield x[(slice(None), slice(None), *parts)]


def _pads_before(
    spatial: Sequence[int], reach: Sequence[int], attributes: dict[str, Any]
) -> list[int]:
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max(end - n, 0) for end, n in zip(reach, spatial, strict=True)]
        return [total // 2 if auto == "SAME_UPPER" else -(-total // 2) for total in totals]
    if auto == "VALID":
        return [0] * len(spatial)
    return list(attributes.get("pads") or [0] * (2 * len(spatial)))[: len(spatial)]
