"""The command line, ``shoal``.

Not here: decisions: a command calls the API's client or a room, and prints.
"""

from __future__ import annotations

import sys

from contracts import interpreter, pipes


def main() -> None:
    """Runs what the arguments say; only what it needs is loaded."""
    with interpreter.loading():
        from fleet.cli import one

        app = one.chosen(sys.argv[1:])
    with pipes.quiet():
        app()


__all__ = ["main"]
