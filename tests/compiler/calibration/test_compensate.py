"""Error correction of linear layers: what a layer can make up for, it does."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import model_from_text, run_model
from snn_compile.compiler.calibration.sequence import compensate
from snn_compile.compiler.calibration.sequence.compensate import LayerErrors, Rounding
from snn_compile.compiler.calibration.sequence.patches import ConvPatches, as_weight
from snn_compile.passes.analysis.layers import Geometry, Layer


def layer(op: str, geometry: Geometry | None = None, transposed: bool = False) -> Layer:
    return Layer(
        "layer", op, "x", "w", "b", "y", None, "y", (-np.inf, np.inf), transposed, geometry
    )


def add(errors: LayerErrors, x: np.ndarray, error: np.ndarray) -> None:
    """One batch of a layer that gives 0 where the ANN gives ``error``."""
    errors.add(x, error, np.zeros_like(error))


CONVOLUTIONS = [
    (1, 3, 4, (3, 3), (2, 1), (1, 0, 2, 1), (1, 1), (7, 6)),
    (4, 4, 8, (3,), (1,), (1, 1), (2,), (9,)),
    (2, 4, 6, (1, 2), (1, 1), (0, 0, 0, 0), (1, 1), (5, 5)),
    (1, 2, 3, (2, 1, 2), (1, 2, 1), (0, 1, 1, 1, 0, 0), (1, 1, 1), (4, 5, 4)),
]


def convolve(x: np.ndarray, weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    shape = ", ".join(str(length) for length in x.shape)
    free = ", ".join("ABCDEF"[axis] for axis in range(x.ndim))
    weights = ", ".join(str(length) for length in weight.shape)
    attributes = (
        f"strides = {list(geometry.strides)}, pads = {list(geometry.pads)}, "
        f"dilations = {list(geometry.dilations)}, group = {geometry.group}"
    )
    model = model_from_text(
        f"net (float[{shape}] x, float[{weights}] w) => (float[{free}] y) "
        f"{{ y = Conv<{attributes}>(x, w) }}"
    )
    return run_model(model, {"x": x, "w": weight})[0]


@pytest.mark.parametrize(
    ("group", "channels", "outputs", "kernel", "strides", "pads", "dilations", "lengths"),
    CONVOLUTIONS,
)
class TestConvolutions:
    def geometry(self, group, kernel, strides, pads, dilations) -> Geometry:
        return Geometry(kernel, strides, pads, dilations, group)

    def test_patches_are_what_a_conv_multiplies(
        self, group, channels, outputs, kernel, strides, pads, dilations, lengths
    ):
        rng = np.random.default_rng(0)
        geometry = self.geometry(group, kernel, strides, pads, dilations)
        x = rng.standard_normal((3, channels, *lengths)).astype(np.float32)
        weight = rng.standard_normal((outputs, channels // group, *kernel)).astype(np.float32)
        expected = np.moveaxis(convolve(x, weight, geometry), 1, -1)
        positions = np.arange(expected[..., 0].size)[::2]
        patches = ConvPatches(x, geometry, expected.shape[1:-1]).at(positions)
        # Of weights in the order of the patches, as_weight is the way back.
        unknowns = patches.shape[-1]
        matrix = rng.standard_normal((group, outputs // group, unknowns)).astype(np.float32)
        got = np.einsum("gnd,god->ngo", patches, matrix).reshape(len(positions), outputs)
        expected = np.moveaxis(convolve(x, as_weight(matrix, geometry), geometry), 1, -1)
        rows = expected.reshape(-1, outputs)[positions]
        np.testing.assert_allclose(got, rows, rtol=1e-4, atol=1e-5)

    def test_an_error_that_the_layer_can_make_is_undone(
        self, group, channels, outputs, kernel, strides, pads, dilations, lengths, monkeypatch
    ):
        monkeypatch.setattr(compensate, "RIDGES", (1e-9,))
        rng = np.random.default_rng(1)
        geometry = self.geometry(group, kernel, strides, pads, dilations)
        wanted = rng.standard_normal((outputs, channels // group, *kernel)).astype(np.float32)
        start = np.zeros_like(wanted)
        errors = LayerErrors(layer("Conv", geometry), start, batches=2, weights=True, seed=0)
        for _ in range(2):
            x = rng.standard_normal((20, channels, *lengths)).astype(np.float32)
            add(errors, x, convolve(x, wanted, geometry) + 2)
        found = errors.solve(np.ones(outputs, np.float32))
        assert found.ridge is not None
        np.testing.assert_allclose(found.weight, wanted, atol=1e-4)
        np.testing.assert_allclose(found.bias, 3, atol=1e-4)
        assert found.before > 1
        assert found.after < 1e-2


@pytest.mark.parametrize(("op", "transposed"), [("MatMul", False), ("Gemm", False), ("Gemm", True)])
def test_products_with_a_matrix_are_corrected_in_its_orientation(
    op: str, transposed: bool, monkeypatch
):
    monkeypatch.setattr(compensate, "RIDGES", (1e-9,))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    x = rng.standard_normal((500, 6)).astype(np.float32)
    held = weight.T.copy() if transposed else weight
    errors = LayerErrors(layer(op, transposed=transposed), held * 0, 1, weights=True, seed=0)
    add(errors, x.reshape(5, 100, 6), (x @ weight - 1).reshape(5, 100, 4))
    found = errors.solve(np.zeros(4, np.float32))
    np.testing.assert_allclose(found.weight, held, atol=1e-4)
    np.testing.assert_allclose(found.bias, -1, atol=1e-4)


def test_ridge_pulls_towards_the_weights_that_were_there(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)).astype(np.float32)
    changes = []
    for ridge in (1e-9, 1.0, 1e9):
        errors = LayerErrors(layer("MatMul"), np.ones((3, 2), np.float32), 1, True, 0)
        add(errors, x, x @ np.full((3, 2), 2, np.float32))
        monkeypatch.setattr(compensate, "RIDGES", (ridge,))
        found = errors.solve(np.zeros(2, np.float32))
        assert found.ridge == ridge
        changes.append(np.abs(found.weight - 1).mean())
        remaining = x @ (3 - found.weight) - found.bias
        np.testing.assert_allclose(
            found.after, np.sqrt((remaining**2).mean()), rtol=1e-4, atol=1e-4
        )
    assert changes[0] > changes[1] > changes[2]
    np.testing.assert_allclose(changes, [2, 1, 0], atol=0.1)


def test_bias_alone_takes_the_mean_error_and_leaves_the_weights():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    x = rng.standard_normal((50, 6)).astype(np.float32)
    error = rng.standard_normal((50, 4)).astype(np.float32)
    errors = LayerErrors(layer("MatMul"), weight, 1, weights=False, seed=0)
    add(errors, x[:20], error[:20])
    add(errors, x[20:], error[20:])
    found = errors.solve(np.full(4, 5, np.float32))
    assert found.weight is weight
    assert found.ridge is None
    np.testing.assert_allclose(found.bias, 5 + error.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.after, error.std(axis=0).__pow__(2).mean() ** 0.5, rtol=1e-5)


def test_weights_alone_leave_the_mean_where_it_was(monkeypatch):
    monkeypatch.setattr(compensate, "RIDGES", (1e-9,))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3)).astype(np.float32) + 4
    errors = LayerErrors(layer("MatMul"), np.zeros((3, 2), np.float32), 1, True, 0)
    add(errors, x, x @ np.ones((3, 2), np.float32) + 7)
    found = errors.solve(np.zeros(2, np.float32), correct_bias=False)
    np.testing.assert_allclose(found.weight, 1, atol=1e-3)
    np.testing.assert_allclose((x @ found.weight + found.bias).mean(axis=0), 0, atol=1e-3)


def test_of_convtranspose_and_automatic_padding_the_bias_alone_can_be_corrected():
    for op in ("ConvTranspose", "Conv"):
        weight = np.ones((3, 2, 2), np.float32)
        for weights, expected in ((False, [1, 2]), (True, [0, 0])):
            errors = LayerErrors(layer(op), weight, 1, weights=weights, seed=0)
            add(errors, np.ones((4, 3, 5), np.float32), np.full((4, 2, 6), [[1], [2]], np.float32))
            found = errors.solve(np.zeros(2, np.float32))
            assert found.ridge is None
            np.testing.assert_array_equal(found.bias, expected)
            reason = "its padding is automatic" if op == "Conv" else f"{op} is not compensated"
            assert found.left == (reason if weights else "")


def test_too_few_rows_and_too_many_unknowns_leave_the_weights(monkeypatch):
    x, error = np.ones((2, 30), np.float32), np.ones((2, 4), np.float32)
    errors = LayerErrors(layer("MatMul"), np.ones((30, 4), np.float32), 1, True, 0)
    add(errors, x, error)
    found = errors.solve(np.zeros(4, np.float32))
    assert (found.ridge, found.left) == (None, "no ridge helps")
    monkeypatch.setattr(compensate, "WIDEST", 29)
    errors = LayerErrors(layer("MatMul"), np.ones((30, 4), np.float32), 1, True, 0)
    add(errors, np.tile(x, (100, 1)), np.tile(error, (100, 1)))
    found = errors.solve(np.zeros(4, np.float32))
    assert found.ridge is None
    assert found.left == "its outputs have 30 weights each, more than 29"


def test_positions_are_a_sample_of_every_batch_and_the_same_for_a_seed(monkeypatch):
    monkeypatch.setattr(compensate, "MOST_ROWS", 40)
    monkeypatch.setattr(compensate, "FEWEST_ROWS", 40)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 100, 3)).astype(np.float32)
    error = rng.standard_normal((2, 100, 2)).astype(np.float32)
    results = []
    for seed in (0, 0, 1):
        errors = LayerErrors(layer("MatMul"), np.zeros((3, 2), np.float32), 2, True, seed)
        for batch in range(2):
            add(errors, x[batch], error[batch])
        results.append(errors.solve(np.zeros(2, np.float32)).bias)
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_nothing_seen_changes_nothing():
    weight, bias = np.ones((3, 2), np.float32), np.ones(2, np.float32)
    errors = LayerErrors(layer("MatMul"), weight, 1, True, 0)
    add(errors, np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32))
    found = errors.solve(bias)
    assert found.weight is weight
    assert found.bias is bias


def noisy(rows: int, samples: int = 2) -> LayerErrors:
    """An error of which a share depends on the inputs, and far more on nothing."""
    rng = np.random.default_rng(0)
    errors = LayerErrors(layer("MatMul"), np.zeros((20, 1), np.float32), 1, True, 0)
    x = rng.standard_normal((samples, rows // samples, 20)).astype(np.float32)
    noise = rng.standard_normal((samples, rows // samples, 1)).astype(np.float32)
    add(errors, x, 0.5 * x[..., :1] + 3 * noise)
    return errors


def test_the_ridge_grows_as_samples_get_few_and_noise_is_not_fitted(monkeypatch):
    monkeypatch.setattr(compensate, "FEWEST_ROWS", 20_000)
    bias = np.zeros(1, np.float32)
    many, few = noisy(20_000).solve(bias), noisy(400).solve(bias)
    assert many.ridge is not None
    assert few.ridge is None or few.ridge > many.ridge
    np.testing.assert_allclose(many.weight[0], 0.5, atol=0.1)
    rng = np.random.default_rng(1)
    errors = LayerErrors(layer("MatMul"), np.ones((50, 1), np.float32), 1, True, 0)
    add(
        errors,
        rng.standard_normal((2, 60, 50)).astype(np.float32),
        rng.standard_normal((2, 60, 1)).astype(np.float32),
    )
    found = errors.solve(bias)
    assert found.ridge is None or np.abs(found.weight - 1).max() < 0.1


def test_the_ridge_is_in_units_of_each_input():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 300, 4)).astype(np.float32)
    error = x @ rng.standard_normal((4, 3)).astype(np.float32)
    error += rng.standard_normal(error.shape).astype(np.float32)
    scale = np.float32([1, 8, 16, 0.5])
    found = []
    for factor in (np.float32(1), scale):
        errors = LayerErrors(layer("MatMul"), np.zeros((4, 3), np.float32), 1, True, 0)
        add(errors, x * factor, error)
        found.append(errors.solve(np.zeros(3, np.float32)))
    assert found[0].ridge == found[1].ridge
    np.testing.assert_allclose(found[1].weight * scale[:, None], found[0].weight, rtol=1e-3)


def test_batches_of_one_sample_are_halved_too():
    rng = np.random.default_rng(0)
    errors = LayerErrors(layer("MatMul"), np.zeros((3, 1), np.float32), 8, True, 0)
    for _ in range(8):
        x = rng.standard_normal((1, 50, 3)).astype(np.float32)
        add(errors, x, x[..., :1] * 2)
    found = errors.solve(np.zeros(1, np.float32))
    assert found.ridge == min(compensate.RIDGES)


def test_fewer_rows_than_unknowns_are_compensated_only_where_that_generalises():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 8, 64)).astype(np.float32)
    noise = rng.standard_normal((4, 8, 2)).astype(np.float32)
    common = x.mean(axis=-1, keepdims=True) * np.ones(2, np.float32)

    def corrected(error):
        errors = LayerErrors(layer("MatMul"), np.zeros((64, 2), np.float32), 1, True, 0)
        add(errors, x + x.mean(axis=-1, keepdims=True) * 20, error)
        return errors.solve(np.zeros(2, np.float32))

    assert corrected(noise).ridge is None
    found = corrected(common)
    assert found.ridge is not None
    assert found.after < 0.5 * found.before


@pytest.mark.parametrize("most", [127, 7, 1])
def test_what_rounding_adds_is_the_error_that_it_makes(most):
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((8, 8))
    x = (rng.standard_normal((600, 8)) @ mix + 1).astype(np.float32)
    weight = rng.standard_normal((8, 4)).astype(np.float32)
    rounding = Rounding(most, 0.1)
    errors = LayerErrors(layer("MatMul"), weight, 1, False, 0, rounding)
    add(errors, x, np.zeros((600, 4), np.float32))
    found = errors.solve(np.zeros(4, np.float32))
    error = x @ (found.weight - weight) + found.bias
    assert np.abs(found.weight - weight).max() > 0
    assert found.rounding == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
    assert found.after == pytest.approx(found.rounding)
