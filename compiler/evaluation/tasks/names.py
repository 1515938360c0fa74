"""Names of the tasks. Only the standard library is imported with this file: ``--help`` reads it."""

from __future__ import annotations

CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
REGRESSION, SIMILARITY, DETECTION = "regression", "similarity", "detection"
TASKS = (CLASSIFICATION, SEGMENTATION, REGRESSION, SIMILARITY, DETECTION)

#: How outputs hold boxes: :mod:`.boxes`.
FASTESTDET, YOLOV5, YOLOV8, ROWS = "fastestdet", "yolov5", "yolov8", "rows"
BOXES = (FASTESTDET, YOLOV5, YOLOV8, ROWS)
