"""Chapar: the command gateway for MQTT devices."""

from importlib.metadata import version

__version__ = version("chapar-gateway")
