"""Values without input or output: a message, who calls, what may be filtered."""
