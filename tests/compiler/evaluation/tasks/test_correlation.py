"""Regression and similarity: correlations against NumPy and SciPy, pairs, masks and refusals."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from scipy import stats
from snn_compile.compiler import EvaluationOptions, evaluate
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation.tasks.correlation import CorrelationMeter, _Values
from snn_compile.compiler.evaluation.tasks.task import Batch

RNG = np.random.default_rng(0)
LINEAR = "g (float[N,3] x) => (float[N{c}] y) <float[3{c}] w> {{ y = MatMul (x, w) }}"
#: Embeddings of 4 features: ids of tokens are looked up.
TOKENS = """g (int64[N,T] ids, int64[N,T] attention_mask) => (float[N,T,4] hidden)
    <float[9,4] table> { hidden = Gather (table, ids) }"""


def save(path, text, seed=0):
    onnx.save(model_from_text(text, seed=seed), path)
    return path


def snn_eval(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def measured(ann, other, data, *arguments):
    """The metrics of the only output, by name, and the task."""
    result = snn_eval(
        ann, other, "--data", data, "--json", "--no-latency", "--no-flips", *arguments
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (output,) = found["outputs"]
    return {metric["name"]: metric for metric in output["metrics"]}, found["task"]


def run(path, **feed):
    from snn_compile.compiler.model_io.load import read_model
    from snn_compile.compiler.running.session import make_session

    return make_session(read_model(path)).run(None, feed)[0]


def ranks(values):
    """The mean of the ranks where values are equal."""
    below = (values[:, None] > values[None]).sum(axis=1)
    return below + (values[:, None] == values[None]).sum(axis=1) / 2


def check(found, answers, targets):
    """Metrics against those of the answers of the ANN and of the network."""
    for name, of in (("Pearson", lambda v: v), ("Spearman", ranks)):
        ann, other = (np.corrcoef(of(one), of(targets))[0, 1] for one in answers)
        metric = found[name]
        assert metric["ann"]["value"] == pytest.approx(ann)
        assert metric["value"]["value"] == pytest.approx(other)
        assert metric["drop"]["value"] == pytest.approx(ann - other)
        for one in ("ann", "value", "drop"):
            assert metric[one]["low"] <= metric[one]["value"] <= metric[one]["high"]


@pytest.mark.parametrize("columns", ["", ",1"])
def test_a_regression_is_found_and_equals_a_count_by_hand(tmp_path, columns):
    ann, other = (save(tmp_path / f"{i}.onnx", LINEAR.format(c=columns), i) for i in range(2))
    x = RNG.standard_normal((70, 3)).astype(np.float32)
    targets = x.sum(axis=1).round(0)  # many are equal
    for labels in (targets, targets[:, None]):
        np.savez(tmp_path / "d.npz", x=x, labels=labels)
        found, task = measured(ann, other, tmp_path / "d.npz")
        assert task == "regression"
        check(found, [run(path, x=x).reshape(-1) for path in (ann, other)], targets)


def test_of_several_columns_it_is_the_mean(tmp_path):
    ann = save(tmp_path / "a.onnx", LINEAR.format(c=",2"))
    x = RNG.standard_normal((50, 3)).astype(np.float32)
    targets = np.stack([x.sum(axis=1), 100 * x[:, 0]], axis=1)
    np.savez(tmp_path / "d.npz", x=x, labels=targets)
    found, _ = measured(ann, ann, tmp_path / "d.npz", "--task", "regression")
    y = run(ann, x=x)
    expected = np.mean([np.corrcoef(y[:, i], targets[:, i])[0, 1] for i in range(2)])
    assert found["Pearson"]["ann"]["value"] == pytest.approx(expected)


def test_integers_are_targets_where_that_is_asked_for(tmp_path):
    ann = save(tmp_path / "a.onnx", LINEAR.format(c=",1"))
    x = RNG.standard_normal((50, 3)).astype(np.float32)
    targets = RNG.integers(0, 6, 50)
    np.savez(tmp_path / "d.npz", x=x, labels=targets)
    found, _ = measured(ann, ann, tmp_path / "d.npz", "--task", "regression")
    check(found, [run(ann, x=x)[:, 0]] * 2, targets)


def cosines(rows):
    first, second = rows[::2].astype(float), rows[1::2].astype(float)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


@pytest.mark.parametrize("batch", [None, 5], ids=["at once", "pairs over two batches"])
def test_similarity_is_of_two_samples_in_a_row(tmp_path, batch):
    ann, other = (save(tmp_path / f"{i}.onnx", LINEAR.format(c=",8"), i) for i in range(2))
    x = RNG.standard_normal((60, 3)).astype(np.float32)
    scores = RNG.uniform(0, 5, 30)
    answers = [cosines(run(path, x=x)) for path in (ann, other)]
    if batch is not None:  # the model fixes it, and 60 are 12 of them
        for path in (ann, other):
            model = onnx.load(path)
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = batch
            onnx.save(model, path)
    np.savez(tmp_path / "d.npz", x=x, labels=scores)
    found, task = measured(ann, other, tmp_path / "d.npz")
    assert task == "similarity"
    check(found, answers, scores)


def test_tokens_are_pooled_over_the_mask(tmp_path):
    ann, other = (save(tmp_path / f"{i}.onnx", TOKENS, i) for i in range(2))
    ids = RNG.integers(0, 9, (40, 7))
    mask = (np.arange(7) < RNG.integers(1, 8, 40)[:, None]).astype(np.int64)
    scores = RNG.integers(0, 6, 20)
    np.savez(tmp_path / "d.npz", ids=ids, attention_mask=mask, labels=scores)
    found, _ = measured(ann, other, tmp_path / "d.npz", "--task", "similarity")
    answers = []
    for path in (ann, other):
        hidden = run(path, ids=ids, attention_mask=mask)
        means = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1)[:, None]
        answers.append(cosines(means))
    check(found, answers, scores)


def test_pairs_in_batches_from_python(tmp_path):
    ann = save(tmp_path / "a.onnx", LINEAR.format(c=",8"))
    x = RNG.standard_normal((60, 3)).astype(np.float32)
    scores = RNG.uniform(0, 5, 30)
    batches = [(x[i : i + 20], scores[i // 2 : i // 2 + 10]) for i in range(0, 60, 20)]
    result = evaluate(ann, ann, batches, EvaluationOptions(latency=None, flips=False))
    assert result.task == "similarity"
    expected = np.corrcoef(cosines(run(ann, x=x)), scores)[0, 1]
    assert result.outputs[0].metrics[1].ann.value == pytest.approx(expected)


def metrics_of(ann, other, targets):
    meter = CorrelationMeter("y", targets[:, None], _Values)
    for part in np.array_split(np.arange(len(targets)), 3):
        meter.add(Batch({}, {"y": ann[part]}, {"y": other[part]}, None))
    return {metric.name: metric for metric in meter.result()}


@pytest.mark.parametrize("distinct", [4, 1000])
def test_against_scipy(distinct):
    targets, ann, other = (RNG.integers(0, distinct, 80).astype(float) for _ in range(3))
    found = metrics_of(ann, other, targets)
    for name, of in (("Spearman", stats.spearmanr), ("Pearson", stats.pearsonr)):
        assert found[name].ann.value == pytest.approx(of(ann, targets).statistic)
        assert found[name].value.value == pytest.approx(of(other, targets).statistic)


def test_the_interval_is_that_of_fishers_transformation():
    """Of normal values: arctanh of the correlation has the variance 1 / (n - 3)."""
    x, noise = RNG.standard_normal((2, 300))
    found = metrics_of(x + noise, x + noise, x)
    for name in ("Pearson", "Spearman"):
        one = found[name].value
        width = np.diff(np.tanh(np.arctanh(one.value) + np.array([-1, 1]) * 1.96 / np.sqrt(297)))
        assert one.high - one.low == pytest.approx(width[0], rel=0.25)
    assert found["Pearson"].drop.low == found["Pearson"].drop.high == 0


def test_answers_that_do_not_vary_or_are_nan_correlate_with_nothing():
    targets = RNG.standard_normal(20)
    for other in (np.full(20, 0.1), np.append(targets[1:], np.nan)):
        found = metrics_of(targets, other, targets)
        for metric in found.values():
            assert metric.ann.value == pytest.approx(1)
            assert np.isnan(metric.value.value) and np.isnan(metric.drop.value)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ([1, 2, np.nan, 4, 5, 6, 7, 8], [], "'labels' has NaN or inf at 2"),
        ([1, np.inf, 3, 4.0], [], "'labels' has NaN or inf at 1"),
        (np.full(8, 2.5), [], "all 'labels' are 2.5, and nothing correlates with that"),
        (np.zeros(5), ["--task", "similarity"], "expected a number for each two samples"),
        (np.zeros((8, 2)), ["--task", "regression"], "expected a number for each sample, of an"),
        (np.zeros(8, bool), ["--task", "regression"], "'labels' is bool [8], expected a number"),
    ],
    ids=str,
)
def test_targets_that_do_not_fit_are_refused(tmp_path, labels, arguments, message):
    text = """g (float[N,3] x) => (float[N,1] y, float[N,3] e) <float[3,1] w> {
        y = MatMul (x, w) e = Relu (x) }"""
    ann = save(tmp_path / "a.onnx", text)
    np.savez(tmp_path / "d.npz", x=np.ones((8, 3), np.float32), labels=labels)
    result = snn_eval(ann, ann, "--data", tmp_path / "d.npz", "--no-latency", *arguments)
    assert result.exit_code == 4
    assert message in result.stderr.replace("\n", " ")


def test_a_task_without_its_labels_is_refused(tmp_path):
    ann = save(tmp_path / "a.onnx", LINEAR.format(c=",1"))
    np.savez(tmp_path / "d.npz", x=np.ones((8, 3), np.float32))
    result = snn_eval(
        ann, ann, "--data", tmp_path / "d.npz", "--no-latency", "--task", "similarity"
    )
    assert result.exit_code == 4
    assert "--task similarity needs labels, and the samples have none" in result.stderr
