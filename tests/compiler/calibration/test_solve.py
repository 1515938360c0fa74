"""Systems in float32 are solved as well as float32 can."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.calibration.sequence.solve import solve_definite


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 128, 300])
@pytest.mark.parametrize("columns", [1, 40])
def test_it_solves(size, columns):
    rng = np.random.default_rng(size)
    x = rng.standard_normal((2 * size, size))
    matrix = (x.T @ x / (2 * size) + 0.03 * np.eye(size)).astype(np.float32)
    right = rng.standard_normal((size, columns)).astype(np.float32)
    found = solve_definite(matrix, right)
    assert found.dtype == np.float32
    expected = np.linalg.solve(matrix.astype(np.float64), right)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_what_is_not_definite_is_left_to_numpy():
    matrix = np.array([[0, 1], [1, 0]], np.float32)
    np.testing.assert_array_equal(solve_definite(matrix, np.eye(2, dtype=np.float32)), matrix)
