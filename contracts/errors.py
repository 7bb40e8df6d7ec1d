"""The errors of Shoal, named by what the caller does next.

::

    ShoalError            something known went wrong; `code` is stable, `message` is for people
    +-- InputError        the input is wrong: change it (exit code 2)
    +-- RefusedError      the input is well-formed but must not be used: do not retry (exit code 1)
    +-- UnavailableError  it may work later: retry (exit code 1)

On the wire, in MQTT payloads and HTTP bodies alike, an error has one shape:
``{"error": {"code": ..., "message": ..., "detail": {...}}}``.
A message says what was expected, what was found and what to do.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inside of the error shape.

    Attributes:
        code: stable, lower case, dashes (``no-such-device``); programs match on it.
        message: one sentence for people.
        detail: facts that belong to the error, JSON values only.
    """

    code: str
    message: str
    detail: dict[str, Any] = {}


class ErrorBody(msgspec.Struct, frozen=True):
    """The one error shape: ``{"error": {...}}``."""

    error: ErrorInfo


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose.

    Args:
        code: stable machine-readable code.
        message: what was expected, what was found, what to do.
        detail: JSON values that help a program or a log.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.info = ErrorInfo(code=code, message=message, detail=detail)

    @property
    def code(self) -> str:
        """The stable code, for example ``bundle-corrupt``."""
        return self.info.code

    def body(self) -> ErrorBody:
        """The error in its wire shape."""
        return ErrorBody(error=self.info)


class InputError(ShoalError):
    """The input is wrong: the caller must change it."""

    exit_code = 2


class RefusedError(ShoalError):
    """The input is well-formed but must not be used; a retry will not help."""


class UnavailableError(ShoalError):
    """Something needed is not there now; the caller may retry later."""


def from_info(info: ErrorInfo) -> ShoalError:
    """Turns an error read off the wire into an exception that the caller can raise."""
    error = ShoalError(info.code, info.message)
    error.info = info
    return error
