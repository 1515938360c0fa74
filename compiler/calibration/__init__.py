"""From samples to neurons: statistics, calibrators, and the correction of what they cannot keep."""
