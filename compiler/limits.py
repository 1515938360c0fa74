"""Limits of what a user may ask for, free of imports: the command line knows them at once."""

from __future__ import annotations

#: Levels N of a neuron.
MOST_LEVELS = 1 << 16
#: Timesteps: tensors have a row for each.
MOST_TIMESTEPS = 1024
