"""Logs: JSON lines on a device, plain lines on a terminal. Never a text of a user.

structlog would be the library, as in the controller; it imports asyncio and its own console,
3.5 MB of an idle agent for lines of a few fields.
"""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

LEVELS: Final = ("debug", "info", "warning", "error")

_shown: frozenset[str] = frozenset(LEVELS[1:])


def configure(*, debug: bool = False) -> None:
    """Sets logging up for a program: to stderr, from ``info`` on."""
    show("debug" if debug else "info")


def show(least: str | None) -> None:
    """Which lines are written.

    Args:
        least: of :data:`LEVELS`; None: none.
    """
    global _shown
    _shown = frozenset(LEVELS[LEVELS.index(least) :] if least else ())


class Logger:
    """Writes lines that carry a module's name. A field is anything that has a text."""

    def __init__(self, module: str) -> None:
        self._module = module

    def debug(self, event: str, **fields: Any) -> None:
        """What a developer asks for."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happened."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What went wrong and will be tried again, or does not matter much."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What somebody should look at."""
        self._write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the stack of the exception that is being handled."""
        self._write("error", event, {**fields, "exception": traceback.format_exc()})

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if level not in _shown:
            return
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if sys.stderr.isatty():
            rest = " ".join(f"{name}={value}" for name, value in fields.items())
            line = f"{now} {level:7} {event} {rest} ({self._module})"
        else:
            about = {"module": self._module, **fields}
            about |= {"event": event, "level": level, "timestamp": now}
            line = json.dumps(about, default=str)
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def logger(module: str) -> Logger:
    """A logger of a module."""
    return Logger(module)
