"""Export of T-step networks to NIR, the Neuromorphic Intermediate Representation (docs/nir.md)."""
