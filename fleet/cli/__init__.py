"""The command line, ``shoal``."""

from fleet.cli.app import main

__all__ = ["main"]
