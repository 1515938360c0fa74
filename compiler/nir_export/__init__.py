"""Export of T-step networks to NIR, the Neuromorphic Intermediate Representation (docs/nir.md)."""

from __future__ import annotations

from .package import check_package, nir_bytes
from .translate import to_nir

__all__ = ["check_package", "nir_bytes", "to_nir"]
