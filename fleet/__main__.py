"""The command ``shoal``, and ``python -m fleet``.

What another program runs is handed to it before anything else is loaded: a device that has the
agent alone can classify, too.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from contracts import __version__, interpreter, pipes

HANDED_OVER: Final = {
    "init": "model_builder",
    "build": "model_builder",
    "compare": "model_builder",
    "import": "model_builder",
    "tune": "model_builder",
    "classify": "agent",
    "embed": "agent",
    "generate": "agent",
    "eval": "agent",
    "inspect": "agent",
}
"""Commands that another program runs, with the same arguments."""


def hand_over(name: str, arguments: list[str]) -> None:
    """Becomes the program that a command is handed to."""
    command = interpreter.module(HANDED_OVER[name], name, *arguments)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606  (a fixed program of ours)


def main() -> None:
    """The entry point of ``shoal``."""
    pipes.complete()
    if sys.argv[1:] in (["--version"], ["-V"]):
        sys.stdout.write(f"shoal {__version__}\n")
        return
    if len(sys.argv) > 1 and sys.argv[1] in HANDED_OVER:
        hand_over(sys.argv[1], sys.argv[2:])
    interpreter.run("fleet.cli", "fleet")


if __name__ == "__main__":
    main()
