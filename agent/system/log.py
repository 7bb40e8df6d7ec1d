"""Logs: JSON lines on a device, coloured lines on a terminal. Never a text of a user."""

from __future__ import annotations

import sys
import threading
from typing import Any

from agent.system.tail import Tail
from contracts.log_errors import frames, reason_of, without_texts
from contracts.log_stream import LogStream

TAIL = Tail()
"""Of this program."""

_NO_RICH = "rich"  # structlog imports it when it is there: 5 MB for tracebacks nobody asked for


def _structlog() -> Any:
    absent = _NO_RICH not in sys.modules
    if absent:
        sys.modules[_NO_RICH] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        if absent:
            del sys.modules[_NO_RICH]
    return structlog


def _uncaught(event: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        logger(__name__).error(event, exc_info=error)


def configure(*, debug: bool = False) -> None:
    """Sets logging up for a program: to stderr, from ``info`` on."""
    structlog = _structlog()
    shared = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        last: list[Any] = [without_texts, TAIL.processor, structlog.dev.ConsoleRenderer()]
    else:
        last = [without_texts, TAIL.processor, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(10 if debug else 20),
        logger_factory=structlog.PrintLoggerFactory(LogStream(sys.stderr)),
    )
    # What nobody catches is printed by Python with its message, which may hold a text.
    sys.excepthook = lambda kind, error, trace: _uncaught("the program ended", error)
    threading.excepthook = lambda given: _uncaught("a thread ended", given.exc_value)
    sys.unraisablehook = lambda given: _uncaught("an error was not raised", given.exc_value)


def silence() -> None:
    """Logs nothing: for a program whose output is another's input, and thousands of devices."""
    structlog = _structlog()
    critical = 50  # the highest level that there is; nothing here logs at it
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(critical))


def logger(name: str) -> Any:
    """A logger whose lines carry the module's name."""
    return _structlog().get_logger(module=name)


__all__ = ["TAIL", "configure", "frames", "logger", "reason_of", "silence", "without_texts"]
