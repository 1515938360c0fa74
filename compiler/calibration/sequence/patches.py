"""What a linear layer multiplies its weights with: rows of its input, one per output position."""

from __future__ import annotations

import numpy as np

from ....passes.analysis.layers import Geometry


class ConvPatches:
    """The inputs of a Conv at chosen output positions.

    Args:
        x: [B, C, ...spatial].
        geometry: how the Conv slides.
        lengths: spatial, of its output.
    """

    def __init__(self, x: np.ndarray, geometry: Geometry, lengths: tuple[int, ...]) -> None:
        axes = len(geometry.kernel)
        pads = zip(geometry.pads[:axes], geometry.pads[axes:], strict=True)
        padded = np.pad(np.moveaxis(x, 1, -1), [(0, 0), *pads, (0, 0)])
        self._channels_last = np.ascontiguousarray(padded)
        self._geometry = geometry
        self._shape = (len(x), *lengths)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The patches at indices into the flattened [B, ...spatial] of the output.

        Returns:
            [group, len(positions), kernel size * C / group].
        """
        geometry = self._geometry
        batch, *index = np.unravel_index(positions, self._shape)
        starts = [i * step for i, step in zip(index, geometry.strides, strict=True)]
        columns = []
        for offset in np.ndindex(*geometry.kernel):
            at = [
                start + o * dilation
                for start, o, dilation in zip(starts, offset, geometry.dilations, strict=True)
            ]
            columns.append(self._channels_last[(batch, *at)])
        stacked = np.stack(columns, axis=1)  # [n, kernel size, C]
        if geometry.group == 1:
            return stacked.reshape(1, len(positions), -1)
        grouped = stacked.reshape(*stacked.shape[:2], geometry.group, -1)
        return grouped.transpose(2, 0, 1, 3).reshape(geometry.group, len(positions), -1)


def as_weight(matrix: np.ndarray, geometry: Geometry) -> np.ndarray:
    """[group, O / group, kernel size * C / group], columns as in :class:`ConvPatches`, as the
    weight of a Conv: [O, C / group, ...kernel]."""
    groups, outputs, _ = matrix.shape
    split = matrix.reshape(groups * outputs, *geometry.kernel, -1)
    return np.moveaxis(split, -1, 1)
