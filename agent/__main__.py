"""Runs `python -m agent`."""
