"""One node for each activation and normalisation that exporters write as arithmetic."""
