"""What ``snn-eval`` measures: outputs, neurons, spikes and energy, latency, baselines, sweeps."""
