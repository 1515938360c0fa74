"""Labels per pixel: mIoU and accuracies against a count by hand, shapes, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from helpers import model_from_text
from snn_compile.compiler import EvaluationOptions, ImageOptions, TaskOptions, UsageError, evaluate
from snn_compile.compiler.eval_cli import main

CAMVID = REPOSITORY.parent / "shared" / "data" / "camvid"
ESPNET = REPOSITORY.parent / "shared" / "data" / "models" / "camvid_espnet.onnx"

#: Networks that give their input, and half of it turned: samples are scores.
SAME = "g (float[N,{s}] x) => (float[N,{s}] y) {{ y = Identity (x) }}"
OTHER = "g (float[N,{s}] x) => (float[N,{s}] y) <float[{s}] w> {{ y = Mul (x, w) }}"
RNG = np.random.default_rng(0)


def networks(folder, shape, weights=None):
    """The files of a network that gives its samples, and of one that multiplies them first."""
    shown = ",".join(map(str, shape))
    onnx.save(model_from_text(SAME.format(s=shown)), folder / "ann.onnx")
    other = model_from_text(OTHER.format(s=shown), seed=3)
    if weights is not None:
        (tensor,) = other.graph.initializer
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float32), tensor.name))
    onnx.save(other, folder / "other.onnx")
    return folder / "ann.onnx", folder / "other.onnx"


def snn_eval(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def measured(ann, other, data, *arguments):
    """The metrics of the only output, by name, and the whole result."""
    result = snn_eval(
        ann, other, "--data", data, "--json", "--no-latency", "--no-flips", *arguments
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (output,) = found["outputs"]
    return {metric["name"]: metric for metric in output["metrics"]}, found


def counted(answers, labels, classes, ignored=()):
    """Mean intersection over union and accuracy, pixel by pixel."""
    kept = ~np.isin(labels, ignored)
    answers, labels = answers[kept], labels[kept]
    shares = []
    for one in range(classes):
        union = ((answers == one) | (labels == one)).sum()
        if union and one not in ignored:
            shares.append(((answers == one) & (labels == one)).sum() / union)
    return np.mean(shares), (answers == labels).mean()


@pytest.fixture
def maps(tmp_path):
    """Scores [samples, classes, height, width] and labels that they are often right on."""
    x = RNG.standard_normal((11, 4, 5, 6)).astype(np.float32)
    labels = np.where(RNG.uniform(size=(11, 5, 6)) < 0.7, x.argmax(axis=1), 2).astype(np.uint8)
    return tmp_path, x, labels


def test_metrics_equal_a_count_by_hand(maps):
    folder, x, labels = maps
    ann, other = networks(folder, x.shape[1:], RNG.uniform(0.2, 1, x.shape[1:]))
    np.savez(folder / "d.npz", x=x, labels=labels)
    found, result = measured(ann, other, folder / "d.npz")
    weights = onnx.numpy_helper.to_array(onnx.load(other).graph.initializer[0])
    answers = x.argmax(axis=1), (x * weights).argmax(axis=1)
    expected = [counted(one, labels, 4) for one in answers]
    for number, name in enumerate(("mIoU", "pixel accuracy")):
        ours, theirs = expected[1][number], expected[0][number]
        one = found[name]
        assert one["value"]["value"] == pytest.approx(ours)
        assert one["ann"]["value"] == pytest.approx(theirs)
        assert one["drop"]["value"] == pytest.approx(theirs - ours)
        assert one["drop"]["low"] < one["drop"]["value"] < one["drop"]["high"]
        assert one["ann"]["low"] < theirs < one["ann"]["high"]
    agreement = (answers[0] == answers[1]).mean()
    assert found["pixel agreement"]["value"]["value"] == pytest.approx(agreement)
    assert found["pixel agreement"]["ann"] is None
    assert result["task"] == "segmentation" and result["data"]["labels"] is True


def test_ignored_pixels_are_not_counted_and_their_class_is_always_wrong(maps):
    folder, x, labels = maps
    ann, _ = networks(folder, x.shape[1:])
    for ignored, own in ((255, 255), (3, 3), (-1, -1)):
        marked = labels.astype(np.int16)
        marked[:, 0] = ignored
        np.savez(folder / "d.npz", x=x, labels=marked)
        found, _ = measured(ann, ann, folder / "d.npz", "--ignore", own)
        iou, accuracy = counted(x.argmax(axis=1), marked, 4, [ignored])
        assert found["mIoU"]["ann"]["value"] == pytest.approx(iou)
        assert found["pixel accuracy"]["ann"]["value"] == pytest.approx(accuracy)


def test_a_class_that_nobody_has_is_left_out_of_the_mean(tmp_path):
    x = np.zeros((3, 5, 2, 2), np.float32)
    x[:, 1] = 1
    np.savez(tmp_path / "d.npz", x=x, labels=np.full((3, 2, 2), 1))
    ann, _ = networks(tmp_path, x.shape[1:])
    assert measured(ann, ann, tmp_path / "d.npz")[0]["mIoU"]["ann"]["value"] == 1


def test_classes_last_one_axis_of_pixels_and_labels_with_an_axis_for_the_channel(tmp_path):
    for shape, axis, own in (
        ((5, 6, 3), -1, (5, 6)),
        ((3, 8), 1, (8,)),
        ((8, 3), -1, (8,)),
        ((3, 2, 4, 5), 1, (2, 4, 5)),
        ((3, 5, 6), 1, (1, 5, 6)),
        ((5, 6, 3), -1, (5, 6, 1)),
    ):
        x = RNG.standard_normal((7, *shape)).astype(np.float32)
        labels = np.where(RNG.uniform(size=(7, *own)) < 0.5, x.argmax(axis).reshape(7, *own), 0)
        ann, _ = networks(tmp_path, shape)
        np.savez(tmp_path / "d.npz", x=x, labels=labels)
        found, _ = measured(ann, ann, tmp_path / "d.npz")
        iou, _ = counted(x.argmax(axis).reshape(7, *own), labels, 3)
        assert found["mIoU"]["ann"]["value"] == pytest.approx(iou)


@pytest.mark.parametrize(
    ("scale", "shift", "threshold"), [(1, 0, 0.5), (8, -4, 0)], ids=["probabilities", "logits"]
)
@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 6), (5, 6, 1)], ids=str)
def test_one_channel_says_yes_or_no(tmp_path, shape, scale, shift, threshold):
    x = (RNG.uniform(size=(6, *shape)) * scale + shift).astype(np.float32)
    labels = RNG.uniform(size=(6, 5, 6)) < 0.4
    ann, _ = networks(tmp_path, shape)
    np.savez(tmp_path / "d.npz", x=x, labels=labels)
    found, _ = measured(ann, ann, tmp_path / "d.npz")
    iou, accuracy = counted((x > threshold).reshape(6, 5, 6), labels, 2)
    assert found["mIoU"]["ann"]["value"] == pytest.approx(iou)
    assert found["pixel accuracy"]["ann"]["value"] == pytest.approx(accuracy)


def test_a_pixel_that_is_nan_is_never_right(tmp_path):
    x = np.zeros((4, 2, 3, 3), np.float32)
    text = "g (float[N,2,3,3] x) => (float[N,2,3,3] y) { a = Sub (x, x) y = Div (a, a) }"
    onnx.save(model_from_text(text), tmp_path / "nan.onnx")
    ann, _ = networks(tmp_path, x.shape[1:])
    np.savez(tmp_path / "d.npz", x=x, labels=np.zeros((4, 3, 3), int))
    found, _ = measured(ann, tmp_path / "nan.onnx", tmp_path / "d.npz")
    assert found["pixel accuracy"]["ann"]["value"] == 1
    assert found["pixel accuracy"]["value"]["value"] == 0


def test_without_labels_a_task_that_is_asked_for_gives_the_agreement(maps):
    folder, x, _ = maps
    ann, other = networks(folder, x.shape[1:])
    np.savez(folder / "d.npz", x=x)
    assert measured(ann, other, folder / "d.npz")[0] == {}
    found, result = measured(ann, other, folder / "d.npz", "--task", "segmentation")
    assert list(found) == ["pixel agreement"]
    assert result["task"] == "segmentation"


def test_the_terminal_shows_the_metrics(maps):
    folder, x, labels = maps
    ann, other = networks(folder, x.shape[1:])
    np.savez(folder / "d.npz", x=x, labels=labels)
    for flags in ([], ["-v"]):
        result = snn_eval(
            ann, other, "--data", folder / "d.npz", "--no-latency", "--no-flips", *flags
        )
        assert "segmentation, 11 samples" in result.stdout
        (line,) = [one for one in result.stdout.splitlines() if "mIoU" in one and "SNN" in one]
        assert line.count("[") == 2


def test_python(maps):
    folder, x, labels = maps
    ann, other = networks(folder, x.shape[1:])
    options = EvaluationOptions(latency=None, flips=False, task=TaskOptions(ignore=2))
    batches = [(x[i : i + 4], labels[i : i + 4]) for i in range(0, 11, 4)]
    result = evaluate(ann, other, batches, options)
    iou, accuracy = (metric.ann.value for metric in result.outputs[0].metrics[:2])
    assert (iou, accuracy) == pytest.approx(counted(x.argmax(axis=1), labels, 4, [2]))
    assert "mIoU" in repr(result)


def test_labels_of_a_folder_of_files_and_of_one_file(maps):
    folder, x, labels = maps
    ann, _ = networks(folder, x.shape[1:])
    (folder / "parts").mkdir()
    (folder / "plain").mkdir()
    for name, part in (("a", slice(0, 5)), ("b", slice(5, 11))):
        np.savez_compressed(folder / "parts" / f"{name}.npz", x=x[part], labels=labels[part])
        np.save(folder / "plain" / f"{name}.npy", x[part])
    np.save(folder / "labels.npy", labels)
    iou, _ = counted(x.argmax(axis=1), labels, 4)
    for arguments in (["parts"], ["plain", "--labels", folder / "labels.npy"]):
        found, _ = measured(ann, ann, folder / arguments[0], *arguments[1:])
        assert found["mIoU"]["ann"]["value"] == pytest.approx(iou)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (np.full((4, 3, 3), 7), [], "'labels' has 7 in sample 0, but the output 'y' has 2 classes"),
        (np.full((4, 3, 3), 255), [], "give --ignore 255"),
        (np.full((4, 3, 3), -1), [], "'labels' has -1 in sample 0"),
        (np.zeros((4, 5, 3), int), [], "the outputs are 'y' [4, 2, 3, 3]"),
        (
            np.zeros((3, 3, 3), int),
            [],
            "'labels' is int64 [3, 3, 3], expected 4 integers, one class index per sample, or an",
        ),
        (np.zeros((4, 3, 3)), ["--task", "segmentation"], "expected an integer for each pixel"),
        (
            np.zeros(4, int),
            ["--task", "segmentation"],
            "for the first batch the outputs are",
        ),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, arguments, message):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2, 3, 3), np.float32), labels=labels)
    ann, _ = networks(tmp_path, (2, 3, 3))
    result = snn_eval(ann, ann, "--data", tmp_path / "d.npz", "--no-latency", *arguments)
    assert result.exit_code == 4
    assert message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TaskOptions("classification", 255), "--ignore is a label of pixels"),
        (TaskOptions(ignore=255), "there are no labels of pixels"),
        (TaskOptions("painting"), "no task is called painting"),
    ],
    ids=str,
)
def test_options_without_an_effect_are_refused(tmp_path, task, message):
    ann, _ = networks(tmp_path, (2,))
    data = {"x": np.zeros((4, 2), np.float32), "labels": np.zeros(4, int)}
    with pytest.raises(UsageError, match=message):
        evaluate(ann, ann, data, EvaluationOptions(latency=None, task=task))


@pytest.mark.slow
@pytest.mark.skipif(not ESPNET.is_file(), reason="needs the shared data")
def test_a_trained_network_has_the_accuracy_that_is_known_of_it():
    pytest.importorskip("PIL.Image")
    mean, std = (109.776, 107.812, 104.421), (72.188, 72.793, 70.007)
    images = ImageOptions(
        pixel_scale=255, mean=[one / 255 for one in mean], std=std, channel_order="bgr"
    )
    options = EvaluationOptions(
        latency=None, flips=False, labels=CAMVID / "test_masks", task=TaskOptions(ignore=11)
    )
    result = evaluate(ESPNET, ESPNET, CAMVID / "test", options, images=images)
    iou, accuracy = (metric.ann.value for metric in result.outputs[0].metrics[:2])
    assert (round(100 * iou, 2), round(100 * accuracy, 2)) == (57.76, 86.46)
