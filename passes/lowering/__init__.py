"""From the spiking network to the operators that a target runs."""
