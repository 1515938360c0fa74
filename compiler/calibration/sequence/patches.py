"""What a linear layer multiplies its weights with: rows of its input, one per output position."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._x = x.reshape(*x.shape[:2], -1)
        self._spatial = x.shape[2:]
        self._geometry = geometry
        self._shape = (len(x), *lengths)
        self._offsets = np.array(list(np.ndindex(*geometry.kernel))) * geometry.dilations

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The patches at indices into the flattened [B, ...spatial] of the output.

        Returns:
            [group, len(positions), kernel size * C / group].
        """
        batch, *index = np.unravel_index(positions, self._shape)
        sample, place, inside = batch[:, None], *self._places(index)
        if self._geometry.group == 1:
            patches = self._x[sample, :, place]  # [n, kernel size, C]
            if not inside.all():
                patches[~inside] = 0
            return patches.reshape(1, len(positions), -1)
        # A channel is a group, or nearly: channels stay in front.
        count, channels, size = self._x.shape
        flat = self._x.transpose(1, 0, 2).reshape(channels, count * size)
        patches = np.take(flat, sample * size + place, axis=1)  # [C, n, kernel size]
        if not inside.all():
            patches[:, ~inside] = 0
        grouped = patches.reshape(self._geometry.group, -1, *place.shape).transpose(0, 2, 3, 1)
        return np.asarray(grouped.reshape(len(grouped), len(positions), -1))

    def _places(self, index: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Where each input of each patch lies in a channel, and whether it is no padding.

        Args:
            index: of the output positions, along each spatial axis.
        """
        geometry = self._geometry
        place = np.zeros((1, 1), np.int64)
        inside = np.ones((1, 1), bool)
        for axis, length in enumerate(self._spatial):
            start = index[axis] * geometry.strides[axis] - geometry.pads[axis]
            at = start[:, None] + self._offsets[:, axis]
            inside = inside & (at >= 0) & (at < length)
            place = place * length + np.clip(at, 0, length - 1)
        return place, inside


def as_weight(matrix: np.ndarray, geometry: Geometry) -> np.ndarray:
    """[group, O / group, kernel size * C / group], columns as in :class:`ConvPatches`, as the
    weight of a Conv: [O, C / group, ...kernel]."""
    groups, outputs, _ = matrix.shape
    split = matrix.reshape(groups * outputs, *geometry.kernel, -1)
    return np.moveaxis(split, -1, 1)
