"""Repository files over MQTT: ranged reads with a window, for devices without HTTP.

The device asks and paces itself: at most :data:`MAX_WINDOW` blocks are on the way. The
window opens by one with every block that arrives in time and is halved by a loss, so that a
slow link is not flooded (additive increase, multiplicative decrease; RFC 5681). It closes by one
when blocks wait for one another (as in RFC 6817): other messages come by the same connection,
and what is on the way when a download is taken back is lost. Blocks grow while they arrive soon:
each costs the device and the broker as much as any message.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from agent.update.fetch import NO_SUCH_FILE, Transfer
from contracts import blocks, limits
from contracts.errors import ShoalError, UnavailableError
from contracts.requests import BlobGet

BLOCK_BYTES: Final = 32 * limits.KIB
"""Bytes of the first blocks: at 50 kB/s one takes less than a second."""

LARGEST_BYTES: Final = 128 * limits.KIB
"""Bytes of the largest blocks."""

SOON_S: Final = 0.5
"""A block that took less doubles the next ones; one that was lost makes them small again."""

QUEUE_S: Final = 1.0
"""A block that took so much longer than the fastest waited for others: fewer are asked for."""

MAX_WINDOW: Final = 16
"""Blocks on the way at once."""

MAX_WINDOW_BYTES: Final = MAX_WINDOW * BLOCK_BYTES
"""Bytes on the way at once: the memory that a download takes."""

FIRST_TIMEOUT_S: Final = 5.0
MAX_TIMEOUT_S: Final = 40.0
"""A lost block is asked for again after the first, doubled with every loss up to the second."""

MAX_TRIES: Final = 6
"""Times that one block is asked for before the way counts as broken."""

Ask = Callable[[BlobGet], None]


class _Wanted(msgspec.Struct):
    """A block that was asked for."""

    offset: int
    length: int
    asked_at: float
    tries: int = 1
    ids: list[str] = []
    answer: blocks.Block | ShoalError | None = None


class Blocks:
    """Reads repository files by ``blob/get``. One read at a time.

    Args:
        ask: sends a request; raises ``UnavailableError`` when there is no connection.
        monotonic: seconds that only grow.
        stop: set when the agent stops.
        heard: takes the controller's time that came with a block, and when it was asked for.
        arrived: told when a block has come; None: of its own.
    """

    def __init__(
        self,
        ask: Ask,
        monotonic: Callable[[], float],
        stop: threading.Event,
        heard: Callable[[float, float], None] = lambda at, sent: None,
        arrived: threading.Condition | None = None,
    ) -> None:
        self._heard = heard
        self._ask = ask
        self._monotonic = monotonic
        self._stop = stop
        self._arrived = arrived or threading.Condition()
        self._wanted: dict[str, _Wanted] = {}
        # Late blocks for an earlier process must not meet a request of this one.
        self._prefix = secrets.token_hex(4)
        self._serial = 0
        self._timeout = FIRST_TIMEOUT_S

    def on_block(self, request_id: str, payload: bytes, at: float | None = None) -> None:
        """Takes a message of ``blob/{id}``; what nobody waits for (late, twice) is dropped.

        Args:
            request_id: of the request that it answers.
            payload: any bytes.
            at: the time that was told with it.
        """
        with self._arrived:
            wanted = self._wanted.get(request_id)
            if wanted is None or wanted.answer is not None:
                return
            try:
                block = blocks.unpack(request_id, payload)
            except ShoalError as error:
                wanted.answer = error
            else:
                if block.offset != wanted.offset or len(block.data) > wanted.length:
                    return
                wanted.answer = block
            asked_at = wanted.asked_at
            self._arrived.notify_all()
        if at is not None:
            self._heard(at, asked_at)

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As :meth:`agent.update.fetch.Fetcher.open`."""
        first = self._request(path, offset, BLOCK_BYTES)
        try:
            block = self._await(path, first)
        finally:
            self._forget(first)
        return Transfer(block.total, self._rest(path, offset, block))

    def _rest(self, path: str, offset: int, first: blocks.Block) -> Iterator[bytes]:
        total = first.total
        if first.data:
            yield first.data
        window, size = 2.0, BLOCK_BYTES
        fastest = float("inf")
        flying: list[_Wanted] = []
        asked = done = offset + len(first.data)
        try:
            while done < total:
                while (
                    asked < total
                    and len(flying) < int(window)
                    and (not flying or asked - done + size <= MAX_WINDOW_BYTES)
                ):
                    flying.append(self._request(path, asked, min(size, total - asked)))
                    asked += flying[-1].length
                tries = flying[0].tries
                block = self._await(path, flying[0])
                if flying[0].tries > tries:
                    window, size = max(1.0, window / 2), BLOCK_BYTES
                else:
                    took = self._monotonic() - flying[0].asked_at
                    fastest = min(fastest, took)
                    if took - fastest > QUEUE_S:
                        window = max(1.0, window - 1)
                    else:
                        window = min(MAX_WINDOW, window + 1)
                    if took < SOON_S:
                        size = min(LARGEST_BYTES, 2 * size)
                if block.total != total or len(block.data) != flying[0].length:
                    raise UnavailableError(
                        "repository-unreachable", f"{path} changed while it was read"
                    )
                self._forget(flying.pop(0))
                done += len(block.data)
                yield block.data
        finally:
            for wanted in flying:
                self._forget(wanted)

    def _request(self, path: str, offset: int, length: int) -> _Wanted:
        wanted = _Wanted(offset, length, self._monotonic())
        self._send(path, wanted)
        return wanted

    def _send(self, path: str, wanted: _Wanted) -> None:
        with self._arrived:
            self._serial += 1
            request_id = f"{self._prefix}-{self._serial}"
            wanted.ids = [*wanted.ids, request_id]
            wanted.asked_at = self._monotonic()
            self._wanted[request_id] = wanted
        try:
            self._ask(BlobGet(request_id, path, wanted.offset, wanted.length))
        except BaseException:
            self._forget(wanted)  # nobody will wait for it
            raise

    def _forget(self, wanted: _Wanted) -> None:
        with self._arrived:
            for request_id in wanted.ids:
                self._wanted.pop(request_id, None)

    def _await(self, path: str, wanted: _Wanted) -> blocks.Block:
        """Waits for a block, asking again when it is late."""
        while True:
            with self._arrived:
                left = wanted.asked_at + self._timeout - self._monotonic()
                if wanted.answer is None and left > 0 and not self._stop.is_set():
                    self._arrived.wait(min(left, 0.5))
                answer = wanted.answer
            if isinstance(answer, ShoalError):
                if answer.code in (NO_SUCH_FILE, "no-such-file"):
                    raise UnavailableError(NO_SUCH_FILE, f"the repository has no {path}")
                raise UnavailableError(answer.code, str(answer))
            if answer is not None:
                self._timeout = max(FIRST_TIMEOUT_S, self._timeout * 0.9)
                return answer
            if self._stop.is_set():
                raise UnavailableError("shutting-down", "the agent is stopping")
            if self._monotonic() < wanted.asked_at + self._timeout:
                continue
            if wanted.tries >= MAX_TRIES:
                raise UnavailableError(
                    "repository-unreachable",
                    f"no answer to {wanted.tries} requests for {path} over MQTT",
                )
            wanted.tries += 1
            self._timeout = min(MAX_TIMEOUT_S, self._timeout * 2)
            self._send(path, wanted)
