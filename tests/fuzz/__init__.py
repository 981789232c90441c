"""Generated input against what takes it: `python -m fuzz`, or `scripts/fuzz`, which sets everything up for it."""
