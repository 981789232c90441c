"""Small mistakes, put into the code to see whether a test notices: `python -m mutation`, or `scripts/mutate`."""
