"""Detection: forms of boxes, agreement with the ANN, mAP by COCO's own code, and refusals."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from helpers import model_from_text
from snn_compile.compiler import EvaluationOptions, TaskOptions, UsageError, evaluate
from snn_compile.compiler.eval_cli import main
from snn_compile.compiler.evaluation.tasks.boxes import (
    Boxes,
    Form,
    agreement,
    fitting_form,
    kept,
    overlap,
)
from snn_compile.compiler.evaluation.tasks.detection import DetectionMeter
from snn_compile.compiler.evaluation.tasks.names import FASTESTDET, ROWS, YOLOV5, YOLOV8
from snn_compile.compiler.evaluation.tasks.task import Batch

pytest.importorskip("pycocotools", reason="needs the extra 'detection'")

RNG = np.random.default_rng(0)
SHARED = REPOSITORY.parent / "shared" / "data"


def snn_eval(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def network(path, shape, text="y = Identity (x)"):
    """A network whose samples are its outputs."""
    s = ",".join(map(str, shape))
    model = model_from_text(f"g (float[N,{s}] x) => (float[N,{s}] y) {{ {text} }}")
    onnx.save(model, path)
    return path


def measured(ann, other, data, *arguments):
    """The metrics of the only output, by name."""
    result = snn_eval(
        ann, other, "--data", data, "--json", "--no-latency", "--no-flips", *arguments
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (output,) = found["outputs"]
    assert found["task"] == "detection"
    return {metric["name"]: metric for metric in output["metrics"]}


# Agreement --------------------------------------------------------------------------------------


def cells(*detected):
    """4 x 4 cells of one image; each of them is row, column, class and width as a logit."""
    outputs = np.zeros((8, 4, 4), np.float32)
    for row, column, kind, width in detected:
        outputs[:, row, column] = 0
        outputs[[0, 3, 5 + kind], row, column] = [1, width, 1]
    return Form(FASTESTDET, "y", 3).read(outputs, (1, 1))


def test_cells_agree_by_place_class_and_overlap():
    def agree(one, other):
        return agreement(one, other, cells=True)

    two = cells((0, 0, 1, 0), (2, 3, 0, 0))
    assert agree(two, two) == 1
    assert agree(two, cells((0, 0, 1, 0))) == pytest.approx(2 / 3)
    assert agree(two, cells((0, 0, 2, 0), (2, 3, 0, 0))) == 0.5
    assert agree(two, cells((0, 1, 1, 0), (2, 3, 0, 0))) == 0.5
    assert agree(two, cells((0, 0, 1, -1), (2, 3, 0, 0))) == 1  # 0.27 of 0.5 wide
    assert agree(two, cells((0, 0, 1, -1.2), (2, 3, 0, 0))) == 0.5  # 0.23 of 0.5 wide
    assert agree(cells(), cells()) == 1
    assert agree(cells(), two) == 0


def rows(*boxes):
    return Form(ROWS, "y", None).read(np.array(boxes, np.float32).reshape(-1, 6), (1, 1))


def test_rows_agree_in_whatever_order_and_each_once():
    a, b = [0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.8, 1]
    assert agreement(rows(a, b), rows(b, a), cells=False) == 1
    assert agreement(rows(a, b), rows(a, a), cells=False) == 0.5
    assert agreement(rows(a), rows([0, 0, 10, 6, 0.6, 1]), cells=False) == 1
    assert agreement(rows(a), rows([0, 0, 10, 4, 0.6, 1]), cells=False) == 0
    assert agreement(rows(a), rows([0, 0, 10, 10, 0.6, 2]), cells=False) == 0
    assert agreement(rows(a), rows(a, [0, 0, 10, 10, 0.4, 1]), cells=False) == 1
    assert agreement(rows(), rows(), cells=False) == 1


def test_overlap():
    one = np.array([0.0, 0, 2, 2])
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [1, 1, 1, 1]], float)
    assert overlap(one, others).tolist() == [1, pytest.approx(1 / 3), 0, 0]


def test_suppression_keeps_the_best_of_each_class():
    boxes = Boxes(
        np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 0, 60, 9]], float),
        np.array([0.5, 0.9, 0.8, 0.0]),
        np.array([1, 1, 2, 1]),
    )
    found = kept(boxes, 0.001, 0.6, 10)
    assert found.scores.tolist() == [0.9, 0.8] and found.classes.tolist() == [1, 2]
    assert kept(boxes, 0.001, 1.0, 10).scores.tolist() == [0.9, 0.8, 0.5]
    assert kept(boxes, 0.001, 1.0, 1).scores.tolist() == [0.9]


# Forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "shape", "name", "classes"),
    [
        (None, (1, 85, 22, 22), FASTESTDET, 80),
        (None, (1, 84, 8400), YOLOV8, 80),
        (None, (1, 6, 2100), YOLOV8, 2),
        (None, (1, 25200, 85), YOLOV5, 80),
        (YOLOV8, (1, 8400, 84), YOLOV8, 80),
        (ROWS, (1, 300, 6), ROWS, None),
        (YOLOV5, (1, 300, 6), YOLOV5, 1),
    ],
    ids=str,
)
def test_a_form_is_found_by_its_shape(asked, shape, name, classes):
    assert fitting_form(asked, "y", shape) == Form(name, "y", classes)


@pytest.mark.parametrize(
    ("asked", "shape"),
    [(None, (1, 300, 6)), (None, (1, 10)), (None, (1, 5, 9, 9)), (ROWS, (1, 300, 7)),
     (FASTESTDET, (1, 84, 8400)), (YOLOV8, (1, 85, 22, 22))],
    ids=str,
)  # fmt: skip
def test_what_may_be_another_form_is_not_guessed(asked, shape):
    assert fitting_form(asked, "y", shape) is None


def test_forms_give_corners_scores_and_classes():
    centre = np.array([[20, 30, 10, 20], [50, 60, 4, 8]], np.float32)
    q = np.array([[0.1, 0.8], [0.6, 0.2]], np.float32)
    corners = [[15, 20, 25, 40], [48, 56, 52, 64]]
    for name, values, scores in (
        (YOLOV8, np.concatenate([centre, q], axis=1), [0.8, 0.6]),
        (YOLOV8, np.concatenate([centre, q], axis=1).T, [0.8, 0.6]),
        (YOLOV5, np.concatenate([centre, [[0.5], [1]], q], axis=1), [0.4, 0.6]),
    ):
        found = Form(name, "y", 2).read(values, (64, 64))
        np.testing.assert_allclose(found.corners, corners)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
        assert found.classes.tolist() == [1, 0]
    values = np.zeros((7, 2, 4), np.float32)  # 2 rows and 4 columns of an input of 40 x 80
    values[:, 1, 2] = [0.5, 0.0, 0.0, 0, 0, 0.25, 0.5]
    found = Form(FASTESTDET, "y", 2).read(values, (40, 80))
    assert found.corners[6].tolist() == [20, 10, 60, 30]  # half as wide and high as the image
    assert found.scores[6] == pytest.approx(0.5)
    assert found.classes[6] == 1


# mAP --------------------------------------------------------------------------------------------


def test_map_of_boxes_that_are_found_is_1_and_of_half_of_them_half(tmp_path):
    truth = np.array([[[2, 0, 0, 10, 10], [0, 20, 0, 40, 10]]] * 6, float)
    x = np.zeros((6, 4, 6), np.float32)
    x[:, 0], x[:, 1] = [0, 0, 10, 10, 0.9, 2], [20, 0, 40, 10, 0.7, 0]
    ann = network(tmp_path / "ann.onnx", (4, 6))
    # Without the second box, whose class is the only one that the mean has beside the first.
    keep = "s = Constant <value = float[4,1] {1, 0, 1, 1}> () y = Mul (x, s)"
    other = network(tmp_path / "other.onnx", (4, 6), keep)
    np.savez(tmp_path / "d.npz", x=x, labels=truth)
    found = measured(ann, other, tmp_path / "d.npz", "--boxes", "rows")
    for name in ("mAP", "mAP50"):
        assert found[name]["ann"]["value"] == pytest.approx(1)
        assert found[name]["value"]["value"] == pytest.approx(0.5)
        assert found[name]["drop"]["value"] == pytest.approx(0.5)
    assert found["box agreement (F1)"]["value"]["value"] == pytest.approx(2 / 3)
    assert found["box agreement (F1)"]["ann"] is None


def test_map_at_an_overlap(tmp_path):
    """Boxes that overlap the known ones by 0.72 are right at 0.5 to 0.7: five of ten overlaps."""
    x = np.zeros((3, 1, 6), np.float32)
    x[:, 0] = [0, 0, 10, 7.2, 0.9, 1]
    np.savez(tmp_path / "d.npz", x=x, labels=np.array([[[1, 0, 0, 10, 10]]] * 3, float))
    ann = network(tmp_path / "ann.onnx", (1, 6))
    found = measured(ann, ann, tmp_path / "d.npz", "--boxes", "rows")
    assert found["mAP50"]["ann"]["value"] == pytest.approx(1)
    assert found["mAP"]["ann"]["value"] == pytest.approx(0.5)


def test_images_without_boxes_crowds_and_nothing_found(tmp_path):
    truth = np.full((4, 2, 6), -1.0)
    truth[0, 0], truth[1, 0] = [1, 0, 0, 10, 10, 0], [1, 0, 0, 10, 10, 0]
    truth[0, 1] = [1, 50, 0, 90, 10, 1]
    x = np.zeros((4, 2, 6), np.float32)
    x[:2, 0] = [0, 0, 10, 10, 0.9, 1]
    x[0, 1] = [50, 0, 60, 10, 0.95, 1]  # of the crowd: neither right nor wrong
    np.savez(tmp_path / "d.npz", x=x, labels=truth)
    ann = network(tmp_path / "ann.onnx", (2, 6))
    none = network(tmp_path / "none.onnx", (2, 6), "y = Sub (x, x)")
    found = measured(ann, none, tmp_path / "d.npz", "--boxes", "rows")
    assert found["mAP"]["ann"]["value"] == pytest.approx(1)
    assert found["mAP"]["value"]["value"] == 0


def test_the_jackknife_is_about_as_wide_as_a_bootstrap(tmp_path):
    """Of one class, one box per image and equal scores: mAP50 is about the square of the share."""
    right = RNG.uniform(size=200) < 0.7
    x = np.zeros((200, 1, 6), np.float32)
    x[:, 0] = [0, 0, 10, 10, 0.9, 0]
    x[~right, 0, 0:3:2] += 50
    x[:, 0, 4] = RNG.uniform(0.5, 1, 200)
    np.savez(tmp_path / "d.npz", x=x, labels=np.array([[[0, 0, 0, 10, 10]]] * 200, float))
    ann = network(tmp_path / "ann.onnx", (1, 6))
    one = measured(ann, ann, tmp_path / "d.npz", "--boxes", "rows")["mAP50"]["ann"]
    share = right.mean()
    half = 1.96 * 2 * share * np.sqrt(share * (1 - share) / 200)  # of the square of a share
    assert half / 2 < one["high"] - one["value"] < 2 * half


def test_python_finds_boxes_in_labels_and_agreement_without(tmp_path):
    values = RNG.uniform(0.1, 0.9, (5, 8, 3, 3)).astype(np.float32)
    ann = network(tmp_path / "ann.onnx", (8, 3, 3))
    boxes = np.array([[[0, 0, 0, 1, 1]]] * 5, np.float32)
    options = EvaluationOptions(latency=None, flips=False)
    result = evaluate(ann, ann, [(values, boxes)], options)
    assert [metric.name for metric in result.outputs[0].metrics][:2] == ["mAP", "mAP50"]
    options = EvaluationOptions(latency=None, flips=False, task=TaskOptions("detection"))
    result = evaluate(ann, ann, values, options)
    (metric,) = result.outputs[0].metrics
    assert (metric.name, metric.value.value) == ("box agreement (F1)", 1)


BOX = [0, 0, 0, 10, 10]


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ([[BOX]] * 3 + [[[0, 0, np.nan, 1, 1]]], [], "box 0 of sample 3 has NaN or inf"),
        ([[[9, 0, 0, 1, 1]]] * 4, [], "class that the output 'y' does not have, which has 3"),
        ([[[0, 5, 0, 1, 1]]] * 4, [], "box 0 of sample 0 ends before it begins"),
        ([[[0.5, 0, 0, 1, 1]]] * 4, [], "has no whole number as its class"),
        ([[[-1.0] * 5]] * 4, [], "'labels' have no box"),
        (np.zeros((4, 0, 5)), [], "'labels' have no box"),
        ([[BOX]] * 3, [], "'labels' is int64 [3, 1, 5], expected boxes [samples, n, 5]"),
        (np.zeros((4, 2, 4)), [], "expected boxes [samples, n, 5]"),
        ([[BOX]] * 4, ["--boxes", "yolov8"], "in a form that --boxes names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_boxes_that_do_not_fit_are_refused(tmp_path, labels, arguments, message):
    ann = network(tmp_path / "ann.onnx", (8, 3, 3))
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 8, 3, 3), np.float32), labels=labels)
    result = snn_eval(
        *(ann, ann, "--data", tmp_path / "d.npz", "--no-latency", "--task", "detection"), *arguments
    )
    assert result.exit_code == 4
    assert message in result.stderr.replace("\n", " ")


def test_options_that_go_with_nothing_are_refused(tmp_path):
    ann = network(tmp_path / "ann.onnx", (8, 3, 3))
    for task, message in (
        (TaskOptions("segmentation", boxes="rows"), "--boxes is of --task detection"),
        (TaskOptions(boxes="circles"), "no form of boxes is called circles"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(ann, ann, np.zeros((1, 8, 3, 3)), EvaluationOptions(task=task))


def test_without_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    ann = network(tmp_path / "ann.onnx", (8, 3, 3))
    x = np.zeros((4, 8, 3, 3), np.float32)
    data = {"x": x, "labels": np.array([[BOX]] * 4, float)}
    with pytest.raises(UsageError, match=r"install the extra 'detection'"):
        evaluate(ann, ann, data, EvaluationOptions(latency=None))
    options = EvaluationOptions(latency=None, flips=False, task=TaskOptions("detection"))
    assert evaluate(ann, ann, {"x": x}, options).outputs[0].metrics


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_a_trained_detector_agrees_with_itself():
    detector = SHARED / "models" / "det_fastestdet352.onnx"
    images = np.load(SHARED / "imagenet" / "test.npz")["images"][:2]
    x = np.zeros((2, 3, 352, 352), np.float32)
    x[:, :, :224, :224] = images[:, :224, :224, ::-1].transpose(0, 3, 1, 2) / 255
    options = EvaluationOptions(latency=None, flips=False, task=TaskOptions("detection"))
    result = evaluate(detector, detector, x, options)
    assert result.outputs[0].metrics[0].value.value == 1


# On the page ------------------------------------------------------------------------------------


def test_boxes_of_a_few_images_are_kept():
    """Sample 0 has none; above 0.5 alone, without those that overlap one of a higher score."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((8, 3, 6), np.float32)
    boxes[1:, 0] = [10, 20, 30, 40, 0.9, 2]
    boxes[1:, 1] = [0, 0, 5, 5, 0.4, 1]
    other = boxes.copy()
    other[1:, 0, 4] = 0.3
    feed = {"x": rng.random((8, 3, 48, 64)).astype(np.float32)}
    meter = DetectionMeter(Form("rows", "y", None))
    for part in (slice(0, 3), slice(3, 8)):
        outputs = {"y": boxes[part]}, {"y": other[part]}
        batch = Batch({"x": feed["x"][part]}, *outputs, None, part.start)
        meter.add(batch)
    drawn = meter.drawn()
    assert [image.sample for image in drawn] == [1, 2, 3, 4]
    assert all(image.size == [48, 64] and image.other == [] for image in drawn)
    assert drawn[0].ann == [[10, 20, 30, 40, pytest.approx(0.9, abs=1e-4), 2]]


def test_boxes_that_overlap_are_drawn_once():
    outputs = np.zeros((1, 2, 6), np.float32)
    outputs[0, :, :4], outputs[0, :, 4], outputs[0, :, 5] = [20, 20, 10, 10], 1, [0.9, 0.8]
    meter = DetectionMeter(Form("yolov5", "y", 1))
    meter.add(Batch({"x": np.zeros((1, 3, 32, 32))}, {"y": outputs}, {"y": outputs}, None))
    (image,) = meter.drawn()
    assert image.ann == image.other == [[15, 15, 25, 25, pytest.approx(0.9, abs=1e-4), 0]]
