"""The door: which credential proves whom, and what they may do."""
