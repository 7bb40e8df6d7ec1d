"""Runs `python -m fleet`."""
