"""Logs of the controller: for people on a terminal, JSON elsewhere. Never a text of a user.

Queries and answers pass through the controller, and libraries quote in their errors what they
choked on: of an error the log has the kind and the places, and the words of the system and of this
project alone. So it is with what libraries log by themselves: the web server logs an error that an
application did not handle, an event loop one that nobody waited for.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TextIO, cast

import structlog

from contracts.log_errors import without_texts
from contracts.log_stream import LogStream

_SAID = 200
"""Characters of what a library logs."""


def configure_logs(level: str) -> None:
    """Sets logging up for a program: to stderr.

    Args:
        level: ``debug``, ``info``, ``warning``, ``error``.
    """
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.StackInfoRenderer(),
            without_texts,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", LogStream(sys.stderr))),
    )
    logging.basicConfig(handlers=[Libraries()], level=logging.WARNING, force=True)
    # What nobody catches is printed by Python with its message.
    sys.excepthook = lambda kind, error, trace: _uncaught("the program ended", error)
    threading.excepthook = lambda given: _uncaught("a thread ended", given.exc_value)
    sys.unraisablehook = lambda given: _uncaught("an error was not raised", given.exc_value)


def _uncaught(event: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        structlog.get_logger("program").error(event, exc_info=error)


class Libraries(logging.Handler):
    """Logs that a library says something: the pattern of its words without the values in it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs it."""
        said = str(record.msg).partition("\n")[0] if isinstance(record.msg, str) else ""
        error = record.exc_info[1] if record.exc_info else None
        log = structlog.get_logger(record.name)
        known = record.levelname.lower() in ("debug", "info", "warning", "error")
        say = getattr(log, record.levelname.lower() if known else "error")
        say("a library says", said=said[:_SAID], **({"exc_info": error} if error else {}))
