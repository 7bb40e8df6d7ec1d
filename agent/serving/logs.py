"""The operation ``logs``: the newest lines of the agent's log, where its owner shares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.serving.limiter import RateLimiter
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.system.tail import Tail
from contracts.errors import RefusedError, UnavailableError
from contracts.requests import LogsRequest

DEVICE_PER_S: Final = 2.0
"""Answers a second, whoever asks."""


class Logs:
    """Answers with lines.

    Args:
        tail: that are kept; None: none are.
        boot: of this run.
        monotonic: seconds that only grow.
        shared: whether the owner shares them.
    """

    def __init__(
        self, tail: Tail | None, boot: str, monotonic: Callable[[], float], *, shared: bool = True
    ) -> None:
        self._tail = tail
        self._boot = boot
        self._monotonic = monotonic
        self._shared = shared
        self._rate = RateLimiter(DEVICE_PER_S)

    def register(self, registry: Registry) -> None:
        """Adds the operation; it waits for no model."""
        registry.add(Operation("logs", LogsRequest, self.logs, queued=False))

    def logs(self, request: LogsRequest, reply: Reply) -> None:
        """``req/logs``."""
        if not self._shared:
            raise RefusedError(
                "logs-not-shared",
                "the owner of this device keeps its log: share_logs is false in its agent.yaml",
            )
        if self._tail is None:
            raise UnavailableError("not-supported", "this device keeps no log in its memory")
        if not self._rate.allow("", self._monotonic()):
            raise UnavailableError(
                "rate-limited", f"a log is read {DEVICE_PER_S:g} times a second at most: wait"
            )
        after = request.after
        if after is not None and request.boot not in (None, self._boot):
            after = -1  # the asker's lines are of a run before: all of this one follow
        reply.finish(logged=self._tail.page(self._boot, after, request.most, request.level))
