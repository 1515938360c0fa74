"""The graph passes: one file each, applied in the order of ``compiler/pipeline.py``."""
