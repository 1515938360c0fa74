"""Neurons fitted in the order of the network, to what spikes give them, and errors corrected."""
