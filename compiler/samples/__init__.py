"""Samples for calibration, verification and evaluation: from files, or made up."""
