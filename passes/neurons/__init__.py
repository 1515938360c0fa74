"""From activations and analog edges to calibrated neurons."""
