"""Networks of integers of 8 bits: what their operators must give, and what the runtime gives."""
