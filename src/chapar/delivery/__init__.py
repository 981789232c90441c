"""The life of a message, from accepted to its last word."""
