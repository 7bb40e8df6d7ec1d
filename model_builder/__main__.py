"""Runs ``python -m model_builder``."""

from model_builder.cli import main

main()
