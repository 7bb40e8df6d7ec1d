"""Runs ``python -m model_builder``."""

from contracts import interpreter

interpreter.run("model_builder.cli", "builder")
