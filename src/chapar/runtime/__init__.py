"""The surroundings of a process: settings, files, clock, log, metrics, loops."""
