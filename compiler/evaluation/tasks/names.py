"""Names of the tasks. Only the standard library is imported with this file: ``--help`` reads it."""

from __future__ import annotations

CLASSIFICATION, SEGMENTATION = "classification", "segmentation"
REGRESSION, SIMILARITY = "regression", "similarity"
TASKS = (CLASSIFICATION, SEGMENTATION, REGRESSION, SIMILARITY)
