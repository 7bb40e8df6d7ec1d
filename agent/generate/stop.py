"""The early end of an answer."""

from __future__ import annotations

from contracts.answers import FinishReason


class Stop(Exception):  # noqa: N818 - it is no error
    """Raised by a request's callbacks to end it early.

    Args:
        reason: the finish reason.
    """

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(reason)
        self.reason: FinishReason = reason
