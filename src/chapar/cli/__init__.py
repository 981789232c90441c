"""The command `chapar`: parse, call, print. What it does, the modules it calls know."""

from chapar.cli.command import main

__all__ = ["main"]
