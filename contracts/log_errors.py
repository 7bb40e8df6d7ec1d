"""What a log may say of an error. Never a text of a user: neither locals, nor values."""

from __future__ import annotations

import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from contracts.errors import InputError, ShoalError

_FRAMES: Final = 20
"""Innermost places of a traceback that are logged."""


def without_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turns an exception into its type and the places it passed: no locals, no values.

    Locals hold texts of users, and so do messages of libraries ("cannot encode '...'"), and of
    this project about what somebody sent. All else that it and the system say has none.
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
    if isinstance(error, InputError):
        found["message"] = error.code
    elif isinstance(error, ShoalError | OSError):
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
