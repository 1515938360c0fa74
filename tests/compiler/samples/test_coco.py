"""Known boxes of images in COCO's JSON: which image, which class, where after cutting."""

from __future__ import annotations

import json

import numpy as np
import pytest
from snn_compile.compiler.errors import DataError
from snn_compile.compiler.samples.base import InputSpec
from snn_compile.compiler.samples.image_options import ImageOptions
from snn_compile.compiler.samples.label_files import read_label_path
from snn_compile.compiler.samples.source import Source

Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'snn-compile[images]'")

CONTENT = {
    "images": [
        {"id": id_, "file_name": f"{name}.png"} for id_, name in ((7, "b"), (5, "a"), (1, "z"))
    ],
    "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {"image_id": 5, "category_id": 90, "bbox": [2, 4, 6, 8], "iscrowd": 0},
        {"image_id": 5, "category_id": 3, "bbox": [10, 0, 4, 4], "iscrowd": 1},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
    ],
}


def boxes(folder, content=CONTENT, size=(16, 16), **options):
    """Those of the images a.png and b.png of 20 x 16 pixels, for an input of this size."""
    for name in ("a", "b"):
        Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(folder / f"{name}.png")
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    source = Source(folder, images=ImageOptions(pixel_scale=255, **options))
    try:
        samples = source.open([InputSpec("x", np.dtype(np.float32), (None, 3, *size))])
        ((_, rows),) = read_label_path(path, samples)
        return rows[:]
    finally:
        source.close()


def test_boxes_are_those_of_the_images_in_their_order(tmp_path):
    found = boxes(tmp_path, size=(16, 20))
    assert found.shape == (2, 2, 6)
    assert found[0].tolist() == [[1, 2, 4, 8, 12, 0], [0, 10, 0, 14, 4, 1]]
    assert (found[1, :, 0] == -1).all()


def test_they_are_cut_and_scaled_as_the_images(tmp_path):
    found = boxes(tmp_path)  # the middle 16 of 20 columns
    assert found[0].tolist() == [[1, 0, 4, 6, 12, 0], [0, 8, 0, 12, 4, 1]]
    found = boxes(tmp_path, size=(8, 40), resize="stretch")
    assert found[0, 0].tolist() == [1, 4, 2, 16, 6, 0]


def test_a_box_that_is_cut_away_is_left_out(tmp_path):
    edge = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 2, 9]}
    content = CONTENT | {"annotations": [edge, *CONTENT["annotations"]]}
    assert boxes(tmp_path, content).shape == (2, 2, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON of boxes as COCO has it"),
        ([], "is no JSON of boxes as COCO has it"),
        ({"images": []}, "there is no 'categories'"),
        (CONTENT | {"images": CONTENT["images"][:1]}, "has no image with the file_name a.png"),
        (CONTENT | {"categories": []}, "there is no 90"),
        (CONTENT | {"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2]}]},
         r"the bbox \[1, 2\] is not four numbers"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        boxes(tmp_path, content)
