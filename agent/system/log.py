"""Logs: JSON lines on a device, coloured lines on a terminal. Never a text of a user."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final

from contracts.errors import ShoalError
from contracts.log_stream import LogStream

_FRAMES: Final = 20
"""Innermost places of a traceback that are logged."""

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


def without_texts(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Turns an exception into its type and the places it passed: no locals, no values.

    Locals hold texts of users, and so do messages of libraries ("cannot encode '...'"). What this
    project and the system say has none.
    """
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else None
    if error is None:
        error = given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if error is None:
        return event
    found: dict[str, Any] = {"type": type(error).__qualname__}
    if isinstance(error, ShoalError | OSError):
        found["message"] = str(error)[:500]
    event["exception"] = found | {"frames": frames(error)}
    return event


def frames(error: BaseException) -> list[str]:
    """The places that an exception passed, the innermost last; no lines of source, no values."""
    return [
        f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    ]


def reason_of(error: BaseException) -> str:
    """What a log may say of an error: of one of the system its words, of any other its kind.

    Messages of libraries, and those about what somebody sent, hold texts of users.
    """
    if isinstance(error, ShoalError):
        return error.code
    return str(error)[:300] if isinstance(error, OSError) else type(error).__qualname__


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
        last: list[Any] = [without_texts, structlog.dev.ConsoleRenderer()]
    else:
        last = [without_texts, structlog.processors.JSONRenderer()]
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
