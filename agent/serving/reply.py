"""The answer to one request: where it goes, how long it may take, whether anybody works on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from contracts.answers import Answer, CallPiece
from contracts.errors import ShoalError, UnavailableError

Send = Callable[[Answer], None]


class Reply:
    """Sends the answer of one request. Safe to cancel from another thread.

    Args:
        request_id: of the request.
        device: who answers.
        send: delivers one message of the answer.
        monotonic: the clock of `deadline`.
        deadline: monotonic time after which nobody waits for the answer; None: no limit.
        done: called once, after the last message, also when that could not be sent.

    Attributes:
        cancelled: set when the requester no longer wants the answer.
    """

    def __init__(
        self,
        request_id: str,
        device: str,
        send: Send,
        *,
        monotonic: Callable[[], float],
        deadline: float | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self.id = request_id
        self.device = device
        self.deadline = deadline
        self.cancelled = threading.Event()
        self._send = send
        self._monotonic = monotonic
        self._done = done
        self._seq = 0
        self._finished = False
        self._sign = monotonic()

    @property
    def finished(self) -> bool:
        """Whether the last message was sent."""
        return self._finished

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and self._monotonic() >= self.deadline

    def alive(self) -> None:
        """A sign of life of the work on this answer."""
        self._sign = self._monotonic()

    def silent_s(self) -> float:
        """Seconds since the last sign of life."""
        return self._monotonic() - self._sign

    def check(self) -> None:
        """Raises ``UnavailableError`` ``cancelled`` or ``deadline`` when work is in vain.

        It is a sign of life too.
        """
        self.alive()
        if self.cancelled.is_set():
            raise UnavailableError("cancelled", "the request was cancelled")
        if self.expired():
            raise UnavailableError("deadline", "the deadline passed before the answer was ready")

    def chunk(self, text: str) -> None:
        """Sends a piece of a stream; chunks are numbered from 0."""
        self._emit(Answer(id=self.id, device=self.device, seq=self._seq, done=False, chunk=text))

    def call(self, piece: CallPiece) -> None:
        """Sends a piece of a call, numbered among the chunks."""
        self._emit(Answer(id=self.id, device=self.device, seq=self._seq, done=False, call=piece))

    def finish(self, **result: Any) -> None:
        """Sends the final message.

        Args:
            **result: one result field of :class:`contracts.answers.Answer`
                (``classified=...``, ``generated=...``).
        """
        self._end(Answer(id=self.id, device=self.device, seq=self._seq, **result))

    def fail(self, error: ShoalError) -> None:
        """Sends an error as the final message; nothing when the answer already ended."""
        if not self._finished:
            self._end(Answer(id=self.id, device=self.device, seq=self._seq, error=error.info))

    def _emit(self, answer: Answer) -> None:
        assert not self._finished, "an answer goes on after its end"
        self._send(answer)
        self._seq += 1

    def _end(self, answer: Answer) -> None:
        try:
            self._emit(answer)
        finally:
            self._finished = True
            if self._done is not None:
                self._done()
