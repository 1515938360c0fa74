"""From the distribution of what an activation sees to its neuron."""
