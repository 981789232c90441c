"""The JSON routes, a file for each subject with its own views."""
