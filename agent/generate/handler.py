"""``req/generate``: a request off MQTT to a stream of numbered chunks and a final message.

Back-pressure: a chunk is sent when the last one has gone out and enough time passed, so that a
slow link gets fewer and larger chunks; a client that does not read costs the broker's queue,
never the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from agent.generate.stop import Stop
from agent.runtime.model import expect_model_task
from agent.serving.models import Models
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from contracts.answers import CallPiece, Generated
from contracts.errors import UnavailableError
from contracts.messages import BundleRef
from contracts.requests import GenerateRequest

MIN_CHUNK_S = 0.02
"""Seconds between two chunks; tokens that come faster travel together."""

MAX_CHUNK_CHARS = 4096
"""Characters that wait at most, whatever the time."""

Answered = Callable[[str, Generated, float], None]
"""Told slot, result, and microseconds on the device."""

Keep = Callable[[str, str, BundleRef, str], None]
"""Told slot, id, bundle and text of an answer before it is sent: it may be judged later."""


class ChunkSender:
    """Joins pieces of text into chunks, and pieces of a call's arguments into larger ones.

    Args:
        reply: of the request.
        clock: seconds, monotonic.
    """

    def __init__(self, reply: Reply, clock: Callable[[], float]) -> None:
        self._reply = reply
        self._clock = clock
        self._waiting: list[str] = []
        self._call: CallPiece | None = None
        self._size = 0
        self._last = float("-inf")

    def push(self, piece: str) -> None:
        """Adds text; it is sent now, or with what follows."""
        self._waiting.append(piece)
        self._size += len(piece)
        if self._clock() - self._last >= MIN_CHUNK_S or self._size >= MAX_CHUNK_CHARS:
            self.flush()

    def tell(self, piece: CallPiece) -> None:
        """Adds a piece of a call, after the text before it and the call before it."""
        if self._call is None or self._call.index != piece.index:
            self.flush()
            self._call = piece
        self.push(piece.arguments)

    def flush(self) -> None:
        """Sends what waits."""
        begins = self._call is not None and self._call.name
        if self._waiting and (begins or any(self._waiting)):
            text = "".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            if self._call is None:
                self._reply.chunk(text)
            else:
                self._reply.call(msgspec.structs.replace(self._call, arguments=text))
                self._call = CallPiece(self._call.index)
            # The time when sending ended: a slow link stretches the pause by itself.
            self._last = self._clock()


class Generating:
    """The operation ``generate``.

    Args:
        models: that are loaded.
        answered: told of every answer, for the counters.
        clock: seconds, monotonic.
        keep: told of every answer before it ends.
    """

    def __init__(
        self,
        models: Models,
        answered: Answered = lambda slot, result, latency_us: None,
        clock: Callable[[], float] = time.monotonic,
        keep: Keep = lambda slot, answer_id, bundle, text: None,
    ) -> None:
        self._models = models
        self._answered = answered
        self._clock = clock
        self._keep = keep

    def register(self, registry: Registry) -> None:
        """Adds the operation."""
        registry.add(Operation("generate", GenerateRequest, self.generate, meant=self.meant))

    def meant(self, request: GenerateRequest) -> GenerateRequest:
        """The request for the slot of the adapter that it names.

        Raises:
            UnavailableError: ``no-adapter``.
        """
        if request.adapter is None:
            return request
        slot = self._models.adapter(request.slot, request.adapter)
        return msgspec.structs.replace(request, slot=slot, adapter=None)

    def generate(self, request: GenerateRequest, reply: Reply) -> None:
        """Answers a request; errors are raised to the worker, which sends them."""
        started = self._clock()
        with self._models.use(request.slot) as model:
            expect_model_task(model, "generate")
            sender = ChunkSender(reply, self._clock)

            def checkpoint() -> None:
                reply.alive()
                if reply.cancelled.is_set():
                    raise Stop("cancelled")
                if reply.expired():
                    raise UnavailableError("deadline", "the deadline passed during the answer")

            streamed = {"emit": sender.push, "tell": sender.tell} if request.stream else {}
            result: Generated = model.generate(request, checkpoint=checkpoint, **streamed)
            sender.flush()
            self._keep(request.slot, reply.id, result.bundle, result.text)
            reply.finish(generated=result)
        self._answered(request.slot, result, (self._clock() - started) * 1e6)
