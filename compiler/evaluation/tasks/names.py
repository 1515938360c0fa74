"""Names of the tasks. Only the standard library is imported with this file: ``--help`` reads it."""

from __future__ import annotations

TASKS = (CLASSIFICATION, SEGMENTATION) = ("classification", "segmentation")
