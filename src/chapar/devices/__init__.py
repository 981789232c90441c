"""Devices: who is out there."""
