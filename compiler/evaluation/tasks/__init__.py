"""Tasks: what labels that are no class of a whole sample say of the networks."""
