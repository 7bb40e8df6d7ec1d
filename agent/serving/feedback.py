"""The operation ``feedback``: whether an answer of a while ago was right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.serving.answers import Answers
from agent.serving.limiter import RateLimiter
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.telemetry.recorder import Recorder
from contracts.errors import ShoalError, UnavailableError
from contracts.requests import FeedbackRequest

REQUESTER_PER_S: Final = 5.0
"""Verdicts a second of one requester, by the name that it gives."""

DEVICE_PER_S: Final = 20.0
"""Verdicts a second of all together: names cost nothing."""


class Feedback:
    """Takes verdicts; what does not count is answered with an error, and counted as that.

    Args:
        answers: that may be judged.
        recorder: counts.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, answers: Answers, recorder: Recorder, monotonic: Callable[[], float]
    ) -> None:
        self._answers = answers
        self._recorder = recorder
        self._monotonic = monotonic
        self._each = RateLimiter(REQUESTER_PER_S)
        self._all = RateLimiter(DEVICE_PER_S)

    def register(self, registry: Registry) -> None:
        """Adds the operation; it waits for no model."""
        registry.add(Operation("feedback", FeedbackRequest, self.feedback, queued=False))

    def feedback(self, request: FeedbackRequest, reply: Reply) -> None:
        """``req/feedback``."""
        try:
            now = self._monotonic()
            if not (self._each.allow(request.requester, now) and self._all.allow("", now)):
                raise UnavailableError("rate-limited", "too much feedback at once: send it later")
            noted = self._answers.judge(request)
        except ShoalError as error:
            self._recorder.feedback_refused(error.code)
            raise
        reply.finish(noted=noted)
