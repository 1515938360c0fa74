"""What a compilation writes: one module or folder for each target."""
