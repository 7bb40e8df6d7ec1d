"""Runs `python -m model_builder`."""
