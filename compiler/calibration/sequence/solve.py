"""Symmetric positive definite systems in float32.

numpy solves in float64 whatever it is given, by a factorisation for any matrix. For matrices that
float32 can represent well enough that takes four times as long as need be. Here is Cholesky's, in
blocks: nearly all of its arithmetic is products of matrices, on all cores.
"""

from __future__ import annotations

import numpy as np

#: Rows of a block; the square blocks on the diagonal are factorised and inverted by numpy.
_BLOCK = 64


def solve_definite(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X with ``matrix @ X = right``.

    Args:
        matrix: float32 [n, n], symmetric; of eigenvalues so far above 0 that they stay above it
            when it is rounded, or numpy is asked.
        right: float32 [n, m].
    """
    try:
        lower, inverses = _factors(matrix)
    except np.linalg.LinAlgError:
        solved: np.ndarray = np.linalg.solve(matrix, right)
        return solved
    found = np.empty_like(right)
    blocks = list(enumerate(range(0, len(matrix), _BLOCK)))
    for number, i in blocks:
        j = i + _BLOCK
        found[i:j] = inverses[number] @ (right[i:j] - lower[i:j, :i] @ found[:i])
    for number, i in reversed(blocks):
        j = i + _BLOCK
        found[i:j] = inverses[number].T @ (found[i:j] - lower[j:, i:j].T @ found[j:])
    return found


def _factors(matrix: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """L of L L^T, and the inverses of the blocks on its diagonal."""
    lower, inverses = np.zeros_like(matrix), []
    for i in range(0, len(matrix), _BLOCK):
        j = i + _BLOCK
        column = matrix[i:, i:j] - lower[i:, :i] @ lower[i:j, :i].T
        square = np.linalg.cholesky(column[:_BLOCK].astype(np.float64))
        inverse = np.linalg.inv(square).astype(np.float32)
        lower[i:j, i:j] = square
        lower[j:, i:j] = column[_BLOCK:] @ inverse.T
        inverses.append(inverse)
    return lower, inverses
