"""What spikes, how often, and into how many products the spikes go."""
