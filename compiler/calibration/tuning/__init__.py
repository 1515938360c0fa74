"""After the fit: levels by sensitivity, one scale for all steps, levels that nothing reaches."""
