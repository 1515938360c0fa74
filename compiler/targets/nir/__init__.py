"""Export of T-step networks to NIR, the Neuromorphic Intermediate Representation (docs/nir.md)."""

from __future__ import annotations

from .package import check_package, nir_bytes
from .translate import check_operators, summary, to_nir

__all__ = ["check_operators", "check_package", "nir_bytes", "summary", "to_nir"]
