"""From a line of a local source to a result: the one place where the privacy rule is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from agent.serving.handlers import Answering
from agent.serving.reply import Reply
from agent.serving.worker import Job, Worker
from agent.system.clock import Clock
from agent.system.log import logger, reason_of
from contracts import limits
from contracts.config import SourceConfig
from contracts.errors import ShoalError
from contracts.messages import Result

log = logger(__name__)

LOCAL_PRIORITY = 4
"""Just behind requests of the default priority: people wait for those."""


class Feed:
    """Classifies the lines of one source on the worker.

    Args:
        source: its configuration.
        answering: classifies and counts.
        worker: where it runs; its queue, half full of lines, slows the source down
            and loses nothing.
        send: takes a result, durably.
        clock: the time.
        stop: set when the agent stops.
        on_failure: told the code of each failure to read and each line skipped, for the counters.
        on_dropped: told of each line that is not classified.
        next_id: the id of the next result, under which it may be judged; empty: it may not.
    """

    def __init__(
        self,
        source: SourceConfig,
        answering: Answering,
        worker: Worker,
        send: Callable[[Result], None],
        clock: Clock,
        stop: threading.Event,
        on_failure: Callable[[str], None],
        on_dropped: Callable[[], None] = lambda: None,
        next_id: Callable[[], str] = lambda: "",
    ) -> None:
        self.source = source
        self.clock = clock
        self.stop = stop
        self._answering = answering
        self._worker = worker
        self._send = send
        self._on_failure = on_failure
        self._on_dropped = on_dropped
        self._next_id = next_id
        self._serial = itertools.count()

    def line(self, data: bytes) -> None:
        """Takes one line. What is not a text, empty or over the cap is counted and skipped."""
        data = data.strip(b"\r\n")
        if not data.strip():
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self._skip("not UTF-8")
            return
        if len(data) > limits.MAX_TEXT_BYTES:
            self._skip(f"over {limits.MAX_TEXT_BYTES} bytes")
            return
        reply = Reply(
            f"{self.source.name}-{next(self._serial)}",
            "local",
            lambda answer: None,
            monotonic=self.clock.monotonic,
        )
        job = Job(lambda: self._classify(text, reply), reply, LOCAL_PRIORITY, self.source.slot)
        try:
            self._worker.submit(job, wait=self.stop)
        except ShoalError as error:
            self._on_dropped()
            log.info("line not classified", source=self.source.name, code=error.code)

    def failed(self, error: Exception) -> None:
        """Tells that the source could not be read; whoever reads it tries again."""
        log.error("source failed", source=self.source.name, reason=reason_of(error))
        self._on_failure("source-failed")

    def _skip(self, why: str) -> None:
        # Never the line itself: logs leave devices too.
        log.warning("line skipped", source=self.source.name, why=why)
        self._on_failure("line-skipped")
        self._on_dropped()

    def _classify(self, text: str, reply: Reply) -> None:
        answer_id = self._next_id()
        name = self.source.name
        answer = self._answering.label(self.source.slot, text, 1, answer_id=answer_id, source=name)
        self._send(
            Result(
                source=self.source.name,
                at=self.clock.time(),
                label=answer.label,
                confidence=round(answer.confidence, 6),
                bundle=answer.bundle,
                text=text if self.source.share_text else None,
                labels=answer.labels,
            )
        )
        reply.finish()
        # Last: a shadow that hangs is no fault of the bundle that has answered.
        self._answering.shadow(self.source.slot, text, answer, answer_id=answer_id, source=name)
