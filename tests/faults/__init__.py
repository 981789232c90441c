"""What is promised, under faults: `python -m faults`, or `scripts/faults`, which sets everything up for it."""
