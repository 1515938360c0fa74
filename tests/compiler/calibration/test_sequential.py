"""Sequential calibration against the same arithmetic by hand: what neurons are fitted to, what each
correction does, and that nothing of the work is left lying about."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from helpers import model_from_text, resolved
from onnx import numpy_helper
from snn_compile.compiler import CompileOptions, choose_neurons, compile_model
from snn_compile.compiler.calibration.calibrate import calibrate
from snn_compile.compiler.calibration.sequence import sequential
from snn_compile.compiler.calibration.sequence.sequential import calibrate_sequentially
from snn_compile.compiler.errors import DataError
from snn_compile.compiler.progress import Progress
from snn_compile.compiler.running.counted_histogram import CountedHistogram
from snn_compile.compiler.running.histograms import Watch
from snn_compile.compiler.running.signed_histogram import SignedHistogram
from snn_compile.compiler.running.spool import Spool
from snn_compile.compiler.samples.base import Samples, input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.passes.analysis.activations import Activation, find_activations
from snn_compile.passes.analysis.layers import find_layers
from snn_compile.passes.canonicalise.canonicalise import canonicalise
from snn_compile.passes.graph.surgeon import export_network, import_model
from snn_compile.passes.neurons.encode_edges import encode_edges
from snn_compile.passes.neurons.neuron import Neuron, ThresholdNeuron
from snn_compile.passes.neurons.own_parameters import own_parameters

ALONE = {"sequential": True, "bias_correction": False, "compensation": False}
BIAS = {"sequential": True, "bias_correction": True, "compensation": False}
WEIGHTS = {"sequential": True, "bias_correction": False, "compensation": True}
ALL = {}
NONE = {"sequential": False, "bias_correction": False, "compensation": False}
NONE_SPIKING = {"sequential": False, "bias_correction": True, "compensation": False}

#: Of every neuron of these tests.
THETA, LEVELS = np.float32(0.75), 3


@dataclass
class FixedFit:
    """Neurons whose threshold is known beforehand, and the distributions they were to fit."""

    seen: dict[str, SignedHistogram] = field(default_factory=dict)

    def watch(self, activation: Activation) -> Watch:
        return Watch(activation.input, None, 1)

    def neuron(self, activation: Activation, histogram: SignedHistogram) -> Neuron:
        assert activation.output not in self.seen, "fitted twice"
        self.seen[activation.output] = histogram
        negative = LEVELS if activation.op == "Encoder" else 0
        theta = np.array(THETA)
        return ThresholdNeuron(
            axis=1, calibrator="fixed", theta=theta, levels_pos=LEVELS, levels_neg=negative
        )

    def silent(self, activation: Activation, histogram: SignedHistogram) -> bool:  # noqa: ARG002
        return False


def fire(x, signed=False):
    """What these neurons make of their membrane potential."""
    count = np.minimum(np.floor(np.abs(x) / THETA + np.float32(0.5)), LEVELS)
    return np.where(x >= 0, THETA * count, -THETA * count if signed else 0).astype(np.float32)


def relu(x):
    return np.maximum(x, 0)


class Prepared:
    """A model as the pipeline hands it to calibration, and its samples."""

    def __init__(self, folder, model, data, encode=False):
        self.model = model_from_text(model) if isinstance(model, str) else model
        graph = canonicalise(import_model(self.model)).graph
        if encode:
            graph = encode_edges(graph).graph
        graph = own_parameters(graph).graph
        self.activations, _ = find_activations(graph)
        self.layers = find_layers(graph)
        self.network = export_network(graph)
        if isinstance(data, dict):
            path = folder / "samples.npz"
            np.savez(path, **data)
        else:
            path = folder / "samples.npy"
            np.save(path, data)
        self.samples = FileSamples(path, input_specs(self.model))

    def weight(self, name):
        return next(
            numpy_helper.to_array(t) for t in self.model.graph.initializer if t.name == name
        )

    def layer(self, name):
        return next(layer for layer in self.layers if layer.output == name)

    def sequentially(self, corrections, fit=None, size=7, settled=None):
        """What was found, and the fit that saw the distributions."""
        fit = FixedFit() if fit is None else fit
        found = calibrate_sequentially(
            self.network,
            [a for a in self.activations if a.output not in (settled or {})],
            self.layers,
            self.samples,
            size,
            fit,
            resolved(**corrections),
            settled or {},
            Progress(),
        )
        return found, fit

    def calibrated(self, corrections=ALL, **options):
        """The same through the entry that the pipeline uses."""
        return calibrate(
            self.network,
            self.activations,
            self.layers,
            self.samples,
            7,
            resolved(**corrections, **options),
            Progress(),
        )


def assert_saw(fit, tensor, *views):
    """The neuron was fitted to exactly these values (up to the order of a sum): those of the ANN,
    and those of the spiking network where they differ."""
    expected = CountedHistogram(1)
    for values in views:
        expected.add(np.ascontiguousarray(values, np.float32).reshape(1, -1))
    got = fit.seen[tensor]
    assert got.views == len(views)
    centres, counts = got.distribution(0)
    wanted_centres, wanted_counts = expected.distribution(0)
    assert counts.sum() == wanted_counts.sum()
    assert (centres @ counts) == pytest.approx(wanted_centres @ wanted_counts, rel=1e-5, abs=1e-3)
    assert (centres**2 @ counts) == pytest.approx(wanted_centres**2 @ wanted_counts, rel=1e-4)
    assert float(got.maxima.max()) == pytest.approx(float(expected.maxima.max()), rel=1e-5)


TWO = """
    g (float[N,6] x) => (float[N,5] y)
        <float[6,8] w1, float[8] b1, float[8,7] w2, float[7] b2, float[7,5] w3> {
        m1 = MatMul (x, w1) a1 = Add (m1, b1) s1 = Relu (a1)
        m2 = MatMul (s1, w2) a2 = Add (m2, b2) s2 = Relu (a2)
        y = MatMul (s2, w3)
    }"""
DATA = np.random.default_rng(3).normal(0.2, 1, (500, 6)).astype(np.float32)


@pytest.fixture
def two(tmp_path):
    """Two layers behind a neuron each, and what they give by hand, without corrections."""
    prepared = Prepared(tmp_path, TWO, DATA)
    w = prepared.weight
    first = DATA @ w("w1") + w("b1")
    return prepared, first, relu(first) @ w("w2") + w("b2"), fire(first) @ w("w2") + w("b2")


class TestWhatNeuronsSee:
    def test_behind_spiking_predecessors_it_is_what_these_fire_and_the_ann_gives(self, two):
        prepared, first, expected, spiking = two
        found, fit = prepared.sequentially(ALONE)
        assert_saw(fit, "s1", first)
        assert_saw(fit, "s2", expected, spiking)
        assert list(found.neurons) == ["s1", "s2"]
        assert (found.parameters, found.changes) == ({}, [])

    def test_switched_off_it_is_the_values_of_the_ann(self, two):
        prepared, first, expected, _ = two
        _, fit = prepared.sequentially(NONE_SPIKING)
        assert_saw(fit, "s1", first)
        assert_saw(fit, "s2", expected)

    def test_behind_a_corrected_layer_it_is_what_that_gives_now_and_the_ann_gave(self, two):
        prepared, first, expected, _ = two
        found, fit = prepared.sequentially(ALL)
        layer = prepared.layer("a2")
        weight, bias = found.parameters[layer.weight], found.parameters[layer.bias]
        assert not np.array_equal(weight, prepared.weight("w2"))
        assert_saw(fit, "s2", expected, fire(first) @ weight + bias)

    def test_results_do_not_depend_on_the_size_of_batches(self, two):
        prepared, *_ = two
        _, one = prepared.sequentially(ALONE, size=1)
        _, all_at_once = prepared.sequentially(ALONE, size=500)
        for tensor in ("s1", "s2"):
            counts = [fit.seen[tensor].distribution(0)[1].sum() for fit in (one, all_at_once)]
            assert counts[0] == counts[1] > 0
            totals = [
                np.dot(*(part.astype(float) for part in fit.seen[tensor].distribution(0)))
                for fit in (one, all_at_once)
            ]
            assert totals[0] == pytest.approx(totals[1], rel=1e-5)

    def test_encoders_take_part(self, tmp_path):
        prepared = Prepared(
            tmp_path,
            """g (float[N,6] x) => (float[N,5] y)
                <float[6,8] w1, float[8,8] w2, float[8,5] w3> {
                a1 = MatMul (x, w1) s1 = Relu (a1) a2 = MatMul (s1, w2)
                t = Sub (a2, a1) y = MatMul (t, w3) }""",
            DATA,
            encode=True,
        )
        w = prepared.weight
        _, fit = prepared.sequentially(ALONE)
        first = DATA @ w("w1")
        assert sorted(fit.seen) == ["s1", "t.encoded"]
        assert_saw(fit, "t.encoded", relu(first) @ w("w2") - first, fire(first) @ w("w2") - first)

    def test_two_neurons_of_one_round_read_one_tensor(self, tmp_path):
        prepared = Prepared(
            tmp_path,
            """g (float[N,6] x) => (float[N,5] y) <float[6,8] w1, float[8,5] w2, float[8,5] w3> {
                a = MatMul (x, w1) p = Relu (a) q = Clip (a, zero, six)
                b = MatMul (p, w2) c = MatMul (q, w3) d = Add (b, c) y = Relu (d) }""".replace(
                "w3>", "w3, float zero = {0}, float six = {6}>"
            ),
            DATA,
        )
        _, fit = prepared.sequentially(ALONE)
        a = DATA @ prepared.weight("w1")
        assert_saw(fit, "p", a)
        assert_saw(fit, "q", a)
        w2, w3 = prepared.weight("w2"), prepared.weight("w3")
        sums = relu(a) @ w2 + np.clip(a, 0, 6) @ w3
        assert_saw(fit, "y", sums, fire(a) @ w2 + fire(a) @ w3)


class TestBias:
    def test_it_takes_the_mean_error_and_nothing_else(self, two):
        prepared, _, expected, spiking = two
        found, fit = prepared.sequentially(BIAS)
        layer = prepared.layer("a2")
        shift = (relu(expected) - relu(spiking)).mean(axis=0)  # what the Relu lets through
        assert np.abs(shift).max() > 0.05
        np.testing.assert_allclose(
            found.parameters[layer.bias], prepared.weight("b2") + shift, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(found.parameters[layer.weight], prepared.weight("w2"))
        assert_saw(fit, "s2", expected, spiking + shift)

    def test_afterwards_the_mean_error_of_a_layer_that_nothing_cuts_off_is_nearly_zero(self, two):
        prepared, first, expected, spiking = two
        found, _ = prepared.sequentially(BIAS)
        w = prepared.weight
        corrected = fire(first) @ w("w2") + found.parameters[prepared.layer("a2").bias]
        before, after = (
            np.abs((relu(expected) - relu(values)).mean(axis=0)).mean()
            for values in (spiking, corrected)
        )
        assert after < 0.8 * before
        last = prepared.layer("y")
        wanted = relu(expected) @ w("w3")
        got = fire(corrected) @ w("w3") + found.parameters[last.bias]
        assert np.abs((wanted - fire(corrected) @ w("w3")).mean(axis=0)).max() > 0.05
        np.testing.assert_allclose((wanted - got).mean(axis=0), 0, atol=1e-4)

    def test_where_a_settled_residual_is_added_its_error_is_made_up_for_too(self, tmp_path):
        prepared = Prepared(
            tmp_path,
            """g (float[N,6] x) => (float[N,8] y) <float[6,8] w1, float[8,8] w2> {
                a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) y = Add (b, r) }""",
            DATA,
        )
        [layer] = prepared.layers
        assert (layer.residual, layer.total) == ("r", "y")
        found, _ = prepared.sequentially(BIAS)
        a, w2 = DATA @ prepared.weight("w1"), prepared.weight("w2")
        errors = relu(a) @ w2 + relu(a) - fire(a) @ w2 - fire(a)
        got = found.parameters[layer.bias]
        np.testing.assert_allclose(got, errors.mean(axis=0), rtol=1e-4, atol=1e-5)

    def test_where_the_residual_is_not_settled_the_layer_is_watched_alone(self, tmp_path):
        prepared = Prepared(
            tmp_path,
            """g (float[N,6] x) => (float[N,8] y) <float[6,8] w1, float[8,8] w2, float[8,8] w3> {
                a = MatMul (x, w1) r = Relu (a)
                b = MatMul (r, w2) c = MatMul (r, w3) y = Add (b, c) }""",
            DATA,
        )
        assert {layer.total for layer in prepared.layers} == {"y"}
        found, _ = prepared.sequentially(BIAS)
        a = DATA @ prepared.weight("w1")
        for layer, name in zip(prepared.layers, ("w2", "w3"), strict=True):
            errors = (relu(a) - fire(a)) @ prepared.weight(name)
            got = found.parameters[layer.bias]
            np.testing.assert_allclose(got, errors.mean(axis=0), rtol=1e-4, atol=1e-5)

    def test_the_bias_of_a_convolution_is_one_number_per_channel(self, tmp_path):
        images = np.random.default_rng(0).standard_normal((40, 1, 5, 5)).astype(np.float32)
        prepared = Prepared(
            tmp_path,
            """g (float[N,1,5,5] x) => (float[N,3,A,B] y) <float[3,1,1,1] w> {
                r = Relu (x) y = Conv (r, w) }""",
            images,
        )
        found, _ = prepared.sequentially(BIAS)
        errors = (relu(images) - fire(images)).mean() * prepared.weight("w").reshape(3)
        [layer] = prepared.layers
        np.testing.assert_allclose(found.parameters[layer.bias], errors, rtol=1e-4, atol=1e-6)


class TestWeights:
    def test_the_squared_error_of_the_output_falls(self, two):
        prepared, first, expected, spiking = two
        layer, error = prepared.layer("a2"), {}
        error["none"] = np.square(expected - spiking).mean()
        for name, corrections in (("bias", BIAS), ("weights", WEIGHTS), ("all", ALL)):
            found, _ = prepared.sequentially(corrections)
            weight, bias = found.parameters[layer.weight], found.parameters[layer.bias]
            error[name] = np.square(expected - fire(first) @ weight - bias).mean()
        assert error["all"] < 0.9 * error["bias"] < error["none"]
        assert error["weights"] < 0.9 * error["none"]

    def test_alone_they_leave_the_mean_error_as_it_was(self, two):
        prepared, first, expected, spiking = two
        found, _ = prepared.sequentially(WEIGHTS)
        layer = prepared.layer("a2")
        got = fire(first) @ found.parameters[layer.weight] + found.parameters[layer.bias]
        before, after = ((expected - output).mean(axis=0) for output in (spiking, got))
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)

    def test_the_lines_tell_the_error_before_and_after(self, two):
        prepared, first, expected, spiking = two
        found, _ = prepared.sequentially(ALL)
        assert [line.split(": ")[0] for line in found.changes] == [
            "MatMul MatMul:m2",
            "MatMul MatMul:y",
        ]
        layer, last = prepared.layer("a2"), prepared.layer("y")
        second = fire(first) @ found.parameters[layer.weight] + found.parameters[layer.bias]
        wanted, w3 = relu(expected) @ prepared.weight("w3"), prepared.weight("w3")
        got = fire(second) @ found.parameters[last.weight] + found.parameters[last.bias]
        before, after = (
            float(np.sqrt(np.square(wanted - output).mean())) for output in (fire(second) @ w3, got)
        )
        told = found.changes[1].split("error ")[1].split(" -> ")
        assert [float(number) for number in told] == pytest.approx([before, after], rel=1e-2)
        assert "weights (ridge" in found.changes[0]
        cut_off = np.sqrt(np.square(relu(expected) - relu(spiking)).mean())
        told = found.changes[0].split("error ")[1].split(" -> ")
        assert float(told[0]) == pytest.approx(cut_off, rel=1e-2)

    def test_switched_off_nothing_is_corrected(self, two):
        prepared, *_ = two
        for corrections in (ALONE, NONE):
            found = prepared.calibrated(corrections)
            assert (found.parameters, found.changes) == ({}, [])
            assert len(found.neurons) == 2


class TestTheCompiledModel:
    def compiled(self, tmp_path, monkeypatch, neuron):
        """The source, the result, its initializers by name and what was calibrated."""
        found = []

        def keep(*arguments):
            found.append(calibrate(*arguments))
            return found[-1]

        monkeypatch.setattr(choose_neurons, "calibrate", keep)
        np.save(tmp_path / "x.npy", DATA)
        source = model_from_text(TWO)
        options = CompileOptions(levels=3, neuron=neuron)
        result = compile_model(source, tmp_path / "x.npy", options)
        held, before = (
            {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
            for model in (result.model, source)
        )
        return before, result, held, found[0]

    @pytest.mark.parametrize("neuron", ["staircase", "multi-threshold"])
    def test_it_holds_the_parameters_that_were_found(self, tmp_path, monkeypatch, neuron):
        before, result, held, found = self.compiled(tmp_path, monkeypatch, neuron)
        assert len(found.parameters) == 4
        for name, values in found.parameters.items():
            np.testing.assert_array_equal(held[name], values)
        [step] = [step for step in result.report.passes if step.name == "calibrate"]
        assert step.changes == found.changes
        assert not np.array_equal(held["w2"], before["w2"])
        np.testing.assert_array_equal(held["w1"], before["w1"])  # no neuron before it

    def test_scales_of_octave_neurons_are_in_them(self, tmp_path, monkeypatch):
        """Those of the layer in front are divided by the scale, those of the next one times it."""
        before, _, held, found = self.compiled(tmp_path, monkeypatch, "scale")
        first, second = (found.neurons[name].scale for name in ("s1", "s2"))
        expected = {name: found.parameters.get(name, before.get(name)) for name in held}

        def rows(scale):
            return scale.reshape(-1, 1)

        np.testing.assert_allclose(held["w1"], expected["w1"] / first, rtol=1e-6)
        np.testing.assert_allclose(held["b1"], expected["b1"] / first, rtol=1e-6)
        np.testing.assert_allclose(held["w2"], rows(first) * expected["w2"] / second, rtol=1e-6)
        np.testing.assert_allclose(held["b2"], expected["b2"] / second, rtol=1e-6)
        np.testing.assert_allclose(held["w3"], rows(second) * expected["w3"], rtol=1e-6)

    def test_two_runs_give_the_same_bytes(self, tmp_path):
        np.save(tmp_path / "x.npy", DATA)
        first, second = (compile_model(model_from_text(TWO), tmp_path / "x.npy") for _ in range(2))
        assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(
            deterministic=True
        )

    def test_corrections_bring_it_closer_to_the_ann(self, tmp_path):
        np.save(tmp_path / "x.npy", DATA)
        errors = []
        for corrections in (ALL, NONE):
            options = CompileOptions(levels=3, **corrections)
            report = compile_model(model_from_text(TWO), tmp_path / "x.npy", options).report
            errors.append(report.verification.outputs[0].relative_l2)
        assert errors[0] < 0.95 * errors[1]


class TestTheFrontier:
    """What waits between rounds, in memory or in a temporary file."""

    @pytest.fixture
    def temporary(self, tmp_path, monkeypatch):
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    @pytest.fixture
    def spools(self, monkeypatch):
        """Those that were made."""
        made = []

        class Seen(Spool):
            def __init__(self, memory):
                super().__init__(memory)
                made.append(self)

        monkeypatch.setattr(sequential, "Spool", Seen)
        return made

    def test_in_memory_and_on_disk_it_gives_the_same(self, two):
        in_memory, _ = two[0].sequentially(ALL)
        on_disk, _ = two[0].sequentially({"memory": 0.0})
        assert list(in_memory.neurons) == list(on_disk.neurons)
        assert in_memory.changes == on_disk.changes
        for name, values in in_memory.parameters.items():
            np.testing.assert_array_equal(values, on_disk.parameters[name])

    def test_a_file_has_no_name_so_that_nothing_is_left_of_it(self, two, temporary, spools):
        class Looking(FixedFit):
            def neuron(self, activation, histogram):
                assert len(spools[0])
                files.append(list(temporary.iterdir()))
                return super().neuron(activation, histogram)

        files: list[list[Path]] = []
        two[0].sequentially({"memory": 0.0}, Looking())
        assert files == [[], []]
        assert len(spools[0]) == 0

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
    def test_it_is_gone_after_an_exception(self, two, spools, error):
        class Failing(FixedFit):
            def neuron(self, activation, histogram):
                if activation.output == "s2":
                    assert len(spools[0])
                    raise error
                return super().neuron(activation, histogram)

        before = threading.active_count()
        with pytest.raises(error):
            two[0].sequentially(ALL, Failing())
        assert len(spools[0]) == 0
        assert threading.active_count() == before

    def test_it_holds_only_what_a_later_stage_reads(self, tmp_path, spools):
        """A chain of six neurons: never more than a few tensors of each batch."""

        class Looking(FixedFit):
            def neuron(self, activation, histogram):
                most.append(len(spools[0]))
                return super().neuron(activation, histogram)

        chain = "".join(f"a{i} = MatMul (s{i}, w) s{i + 1} = Relu (a{i})\n" for i in range(1, 7))
        prepared = Prepared(
            tmp_path,
            f"""g (float[N,6] x) => (float[N,6] y) <float[6,6] w> {{
                s1 = Relu (x) {chain} y = MatMul (s7, w) }}""",
            DATA[:64],
        )
        most: list[int] = []
        prepared.sequentially(ALL, Looking(), size=16)
        batches = 4
        assert len(most) == 7
        assert max(most) <= 4 * batches  # three of the ANN, which is a stage ahead, and one


def test_what_is_not_finite_names_the_activation_that_sees_it(tmp_path):
    """NaN arises behind the first neuron, of samples that are finite."""
    data = DATA.copy()
    data[123] = 0
    prepared = Prepared(
        tmp_path,
        """g (float[N,6] x) => (float[N,5] y) <float[6,6] w1, float[6,5] w2> {
            r = Relu (x) d = Div (x, x) e = Mul (d, r)
            a = MatMul (e, w1) [second] s = Relu (a) y = MatMul (s, w2) }""",
        data,
    )
    with pytest.raises(DataError, match=r"input of Relu second NaN or infinite; check their scal"):
        prepared.calibrated()


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = model_from_text(TWO)
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = np.inf
    weight.CopyFrom(numpy_helper.from_array(values, "w2"))
    with pytest.raises(DataError, match=r"input of Relu Relu:s2 .*the weight 'w2' holds NaN or in"):
        Prepared(tmp_path, model, DATA).calibrated()


@pytest.mark.parametrize("taken", [True, False])
def test_neurons_in_bodies_of_if_are_fitted_to_the_ann_and_fire_meanwhile(tmp_path, taken):
    model = model_from_text("""
        g (float[1,6] x, bool c) => (float[1,5] y)
            <float[6,6] w1, float[6,6] w2, float[6,5] w3, float[6,6] w4> {
            a = MatMul (x, w1) r = Relu (a)
            m = If (c) <
                then_branch = t () => (float[1,6] p) { b = MatMul (r, w2) p = Relu (b) },
                else_branch = e () => (float[1,6] q) { d = MatMul (r, w4) q = Relu (d) }
            >
            y = MatMul (m, w3)
        }""")
    feeds = {"x": DATA[:200, None], "c": np.full(200, taken)}
    prepared = Prepared(tmp_path, model, feeds)
    assert {activation.output for activation in prepared.activations} == {"r", "p", "q"}
    found = prepared.calibrated(levels=3)
    assert sorted(found.neurons) == ["p", "q", "r"]
    [untaken] = found.silent
    assert untaken.output == ("q" if taken else "p")
    # The layer behind the If is corrected for what the neurons of the body fire.
    settled = {name: FixedFit().neuron(a, CountedHistogram(1)) for name, a in _inner(prepared)}
    corrected, _ = prepared.sequentially(BIAS, settled=settled)
    a, inside = DATA[:200] @ prepared.weight("w1"), prepared.weight("w2" if taken else "w4")
    ann, snn = relu(relu(a) @ inside), fire(fire(a) @ inside)
    [layer] = [layer for layer in prepared.layers if layer.input == "m"]
    errors = (ann - snn) @ prepared.weight("w3")
    got = corrected.parameters[layer.bias]
    np.testing.assert_allclose(got, errors.mean(axis=0), rtol=1e-3, atol=1e-4)


def _inner(prepared):
    return [(a.output, a) for a in prepared.activations if a.output != "r"]


class Sequences(Samples):
    """Batches of sequences, each of another length."""

    origin, synthetic, fixed_batch, unbatched = "a test", False, None, frozenset()

    def __init__(self, pieces):
        self._pieces = pieces
        self.count = sum(map(len, pieces))

    def _blocks(self, size):
        raise NotImplementedError

    def batch_count(self, size):  # noqa: ARG002
        return len(self._pieces)

    def batches(self, size):  # noqa: ARG002
        yield from ({"x": piece} for piece in self._pieces)


def test_sequences_of_different_lengths(tmp_path):
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal((12, length, 6)).astype(np.float32) for length in (2, 5, 3)]
    text = TWO.replace("float[N,6] x", "float[N,L,6] x").replace("float[N,5] y", "float[N,L,5] y")
    prepared = Prepared(tmp_path, text, pieces[0])
    prepared.samples = Sequences(pieces)
    found, fit = prepared.sequentially(ALL)
    w = prepared.weight
    first = np.concatenate([piece.reshape(-1, 6) for piece in pieces]) @ w("w1") + w("b1")
    assert_saw(fit, "s1", first)
    layer = prepared.layer("a2")
    weight, bias = found.parameters[layer.weight], found.parameters[layer.bias]
    expected = relu(first) @ w("w2") + w("b2")
    assert_saw(fit, "s2", expected, fire(first) @ weight + bias)
    wanted = relu(expected)
    before, after = (
        np.square(wanted - relu(fire(first) @ matrix + vector)).mean()
        for matrix, vector in ((w("w2"), w("b2")), (weight, bias))
    )
    assert after < 0.9 * before


def test_a_model_that_fixes_its_batch_sees_whole_batches(tmp_path):
    text = TWO.replace("float[N,6] x", "float[8,6] x").replace("float[N,5] y", "float[8,5] y")
    prepared = Prepared(tmp_path, text, DATA[:30])
    _, fit = prepared.sequentially(ALONE, size=8)
    w = prepared.weight
    first = DATA[:24] @ w("w1") + w("b1")  # what fills batches of 8
    assert_saw(fit, "s1", first)
    assert_saw(fit, "s2", *(s @ w("w2") + w("b2") for s in (relu(first), fire(first))))
    assert compile_model(prepared.model, tmp_path / "samples.npy").report.verification.claims


def test_progress_is_told_about_every_round(two):
    class Counting(Progress):
        def track(self, items, total, label):
            items = list(items)
            assert len(items) == total
            told.append((label, total))
            yield from items

    told: list[tuple[str, int]] = []
    prepared = two[0]
    calibrate_sequentially(
        prepared.network,
        prepared.activations,
        prepared.layers,
        prepared.samples,
        50,
        FixedFit(),
        resolved(**ALL),
        {},
        Counting(),
    )
    assert told == [("calibrating", 4)]  # neuron, layer, neuron, layer


def test_an_activation_of_two_signs_may_be_an_output_of_the_network(tmp_path):
    text = """
        g (float[N,4,6,6] x) => (float[N,3] y, float[N,4,4,4] map) <float[4,4,3,3] u, float[4,3] w>
        { a = Conv (x, u) map = LeakyRelu (a)
          p = GlobalAveragePool (map) f = Flatten (p) y = MatMul (f, w) }
    """
    x = np.random.default_rng(0).normal(size=(16, 4, 6, 6)).astype(np.float32)
    np.save(tmp_path / "c.npy", x)
    options = CompileOptions(neuron="multi-threshold")
    report = compile_model(model_from_text(text), tmp_path / "c.npy", options).report
    assert [output.name for output in report.verification.outputs] == ["y", "map"]
