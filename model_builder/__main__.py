"""Runs ``python -m model_builder``."""

from contracts import interpreter, pipes

pipes.complete()
interpreter.run("model_builder.cli", "builder")
