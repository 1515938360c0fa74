"""Known boxes of images, as COCO's JSON has them.

1. ``images`` are known by their ``file_name``: the path below the folder of the images, or the name
   alone. Each image that is a sample has to be there; others are passed over.
2. Categories are classes 0, 1, ... in the order of their ``id``, as detectors are trained.
3. A ``bbox`` is left, top, width, height in pixels of the image as it is in its file. It is moved
   and scaled as the image is when it is cut and resized, and cut at its edge; what is cut away
   whole is left out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .image_options import Pixels
from .images import ImageList, open_pillow, part_kept


def read_coco(path: Path, images: ImageList, pixels: Pixels) -> np.ndarray:
    """Boxes [images, most, 6]: class, left, top, right, bottom, whether it is a crowd.

    Corners are in pixels of the network's input; rows of class -1 are none.

    Raises:
        DataError: the file is no such JSON, or an image is not in it.
        UsageError: pillow is not installed.
    """
    try:
        content = json.loads(path.read_bytes())
        names = {str(one["file_name"]): one["id"] for one in content["images"]}
        classes = {kind: i for i, kind in enumerate(sorted(c["id"] for c in content["categories"]))}
        boxes: dict[Any, list[tuple[int, list[float], int]]] = {}
        for one in content["annotations"]:
            corner = [float(side) for side in one["bbox"]]
            if len(corner) != 4 or not all(map(math.isfinite, corner)):
                raise ValueError(f"the bbox {one['bbox']} is not four numbers")
            row = (classes[one["category_id"]], corner, int(one.get("iscrowd", 0)))
            boxes.setdefault(one["image_id"], []).append(row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path}: is no JSON of boxes as COCO has it, with images, categories and annotations: "
            f"{what}"
        ) from error
    place = images.place if images.place.is_dir() else images.place.parent
    found = []
    for file in images.files:
        own = file.relative_to(place).as_posix() if file.is_relative_to(place) else file.name
        name = own if own in names else file.name
        if name not in names:
            raise DataError(f"{path}: has no image with the file_name {own}; add it to images")
        found.append(_moved(boxes.get(names[name], []), file, pixels))
    most = max(map(len, found), default=0)
    rows = np.full((len(found), most, 6), -1.0)
    for own_rows, moved in zip(rows, found, strict=True):
        own_rows[: len(moved)] = moved
    return rows


def _moved(boxes: list[tuple[int, list[float], int]], file: Path, pixels: Pixels) -> np.ndarray:
    """Boxes of an image in pixels of the input: rule 3."""
    rows = np.array([[kind, *box, crowd] for kind, box, crowd in boxes], float).reshape(-1, 6)
    rows[:, 3:5] += rows[:, 1:3]
    if pixels.size is None or not len(rows):
        return rows
    with open_pillow().open(file) as image:
        left, top, right, bottom = part_kept(image.width, image.height, pixels)
    height, width = pixels.size
    scale = np.array([width / (right - left), height / (bottom - top)])
    corners = (rows[:, 1:5].reshape(-1, 2, 2) - [left, top]) * scale
    rows[:, 1:5] = np.clip(corners, 0, [width, height]).reshape(-1, 4)
    there: np.ndarray = rows[((rows[:, 3:5] - rows[:, 1:3]) > 0).all(axis=1)]
    return there
